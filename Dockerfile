# The image of lockkeeper. Without arguments it is the queue, since Knative's controller sets the sidecar's image and
# never its arguments.
#
#   docker build -t REGISTRY/lockkeeper:TAG .

FROM rust:1-slim-bookworm AS build
# aws-lc-sys compiles C: the image has gcc; cmake and make are for platforms without prepared sources.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev cmake make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Seeds come from the kernel; the alternative costs tens of milliseconds at the first handshake (src/tls/provider.rs).
ENV AWS_LC_SYS_NO_JITTER_ENTROPY=1
COPY Cargo.toml Cargo.lock ./
COPY src src
# The crate declares its test target; only its path has to exist for cargo to read the manifest.
RUN mkdir tests && echo 'fn main() {}' > tests/main.rs
RUN cargo build --release --locked --bin lockkeeper

# glibc rather than musl: src/memory.rs holds glibc's allocator to one arena and a small trim threshold, which is what
# keeps the memory of a pod low; musl's allocator has no such settings and is slower.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/lockkeeper /lockkeeper
USER nonroot
ENTRYPOINT ["/lockkeeper"]
