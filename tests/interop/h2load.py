"""h2load and nghttpd, nghttp2's load generator and server: HTTP/2 on both sides, many streams, bodies, and HTTP/1.1."""
import contextlib
import os
import pathlib
import re
import socket
import subprocess
import tempfile

from harness import Certificates, Queue, case, eventually, free_port, need, run, sh

H2LOAD = need("h2load", "nghttp2-client")
NGHTTPD = need("nghttpd", "nghttp2-server")


@contextlib.contextmanager
def application():
    """nghttpd with h2c, which echoes uploads and serves two files."""
    with tempfile.TemporaryDirectory() as place:
        (pathlib.Path(place) / "small").write_text("small")
        (pathlib.Path(place) / "big").write_bytes(os.urandom(4 << 20))
        port = free_port()
        command = [NGHTTPD, "--no-tls", "--address=127.0.0.1", f"--htdocs={place}", "--echo-upload", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            eventually("nghttpd listens", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            yield port
        finally:
            server.kill()
            server.wait()


def load(*arguments, requests):
    output = sh(H2LOAD, "--requests", requests, *arguments, timeout=300)
    counts = re.search(r"(\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
    assert counts and counts.groups() == (str(requests), str(requests), "0", "0", "0"), output
    assert f"status codes: {requests} 2xx" in output, output


@case
def many_streams_on_a_few_connections():
    with application() as app, Queue(app) as queue:
        load("--clients", 8, "--max-concurrent-streams", 50, f"http://127.0.0.1:{queue.http}/small", requests=20_000)


@case
def as_many_streams_as_are_allowed_and_more():
    with application() as app, Queue(app) as queue:
        load("--clients", 2, "--max-concurrent-streams", 1000, f"http://127.0.0.1:{queue.http}/small", requests=5_000)


@case
def over_tls():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        url = f"https://127.0.0.1:{queue.tls}/small"
        load("--clients", 8, "--max-concurrent-streams", 20, url, requests=10_000)
        # Each connection for one request only: handshakes.
        load("--clients", 200, url, requests=200)
    certificates.close()


@case
def big_answers_and_small_windows():
    with application() as app, Queue(app) as queue:
        url = f"http://127.0.0.1:{queue.http}/big"
        load("--clients", 4, "--max-concurrent-streams", 8, url, requests=100)
        load("--clients", 4, "--max-concurrent-streams", 8, "--window-bits", 16, "--connection-window-bits", 16, url, requests=50)


@case
def uploads():
    with application() as app, Queue(app) as queue, tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(300_000))
        file.flush()
        url = f"http://127.0.0.1:{queue.http}/"
        load("--clients", 8, "--max-concurrent-streams", 10, "--data", file.name, url, requests=1_000)


@case
def a_limit_of_concurrency():
    with application() as app, Queue(app, CONTAINER_CONCURRENCY="5") as queue:
        load("--clients", 5, "--max-concurrent-streams", 10, f"http://127.0.0.1:{queue.http}/small", requests=5_000)


@case
def http_1_1_to_a_server_of_http_1_1():
    from harness import application as http1

    certificates = Certificates()
    with http1() as app, Queue(app, certificates) as queue:
        load("--h1", "--clients", 4, f"http://127.0.0.1:{queue.http}/", requests=2_000)
        load("--h1", "--clients", 4, f"https://127.0.0.1:{queue.tls}/", requests=2_000)
        # HTTP/2 callers of an application that speaks HTTP/1.1 only.
        load("--clients", 4, "--max-concurrent-streams", 5, f"http://127.0.0.1:{queue.http}/", requests=2_000)
    certificates.close()


if __name__ == "__main__":
    run()
