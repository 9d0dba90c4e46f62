# The images of lockkeeper: one binary, a stage for each role. Knative's controller and operator set images and never
# arguments, so each image knows its role; the last stage, and so the default, is the queue.
#
#   docker build -t REGISTRY/lockkeeper:TAG .
#   docker build --target activator -t REGISTRY/lockkeeper-activator:TAG .
#   docker build --target gateway -t REGISTRY/lockkeeper-gateway:TAG .

FROM rust:1-slim-bookworm AS build
# aws-lc-sys compiles C: the image has gcc; cmake and make are for platforms without prepared sources.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev cmake make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# Seeds come from the kernel; the alternative costs tens of milliseconds at the first handshake (src/tls/provider.rs).
ENV AWS_LC_SYS_NO_JITTER_ENTROPY=1
# .dockerignore lets in what the manifest names: tests and benchmarks are not built, but have to be there.
COPY . .
RUN cargo build --release --locked --bin lockkeeper

# glibc rather than musl: src/memory.rs holds glibc's allocator to one arena and a small trim threshold, which is what
# keeps the memory of a pod low; musl's allocator has no such settings and is slower. The base image has glibc, libgcc
# and the roots of public authorities, no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
COPY --from=build /src/target/release/lockkeeper /lockkeeper
# By number: with `runAsNonRoot`, which Knative sets, kubelet refuses a user that it knows by name only.
USER 65532:65532

FROM base AS activator
ENTRYPOINT ["/lockkeeper", "activator"]

FROM base AS gateway
ENTRYPOINT ["/lockkeeper", "gateway"]

FROM base AS queue
# Without arguments the binary is the queue.
ENTRYPOINT ["/lockkeeper"]
