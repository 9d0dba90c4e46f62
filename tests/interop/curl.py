"""curl: HTTP/1.1, HTTP/2 with prior knowledge and by ALPN, TLS, uploads, upgrades."""
import hashlib
import os
import pathlib
import tempfile

from harness import NAME, Certificates, Queue, application, case, contains, need, run, sh

CURL = [need("curl", "curl"), "--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]


def written(*arguments, status=0, write="%{http_code} %{http_version} %{num_connects}"):
    """curl's own account of the last transfer."""
    return sh(*CURL, "--output", "/dev/null", "--write-out", write + "\n", *arguments, status=status).split("\n")[-2]


def secure(queue, certificates, *arguments):
    """Arguments for the TLS port under the name that callers of a queue expect."""
    return ["--cacert", certificates.ca, "--resolve", f"{NAME}:{queue.tls}:127.0.0.1", *arguments, f"https://{NAME}:{queue.tls}/"]


@case
def http_1_1_in_plaintext():
    with application() as app, Queue(app) as queue:
        url = f"http://127.0.0.1:{queue.http}"
        contains(sh(*CURL, "--include", url), "HTTP/1.1 200 OK", "hello from the application")
        contains(sh(*CURL, "--head", url), "HTTP/1.1 200 OK")
        contains(sh(*CURL, "--include", "--http1.0", url), " 200 OK")
        assert written(f"{url}/status/404") == "404 1.1 1"
        # The second transfer on the same connection.
        assert sh(*CURL, "-o", "/dev/null", "-o", "/dev/null", "-w", "%{num_connects}\n", url, url).split() == ["1", "0"]


@case
def http_2_with_prior_knowledge():
    with application() as app, Queue(app) as queue:
        url = f"http://127.0.0.1:{queue.http}"
        assert written("--http2-prior-knowledge", url) == "200 2 1"
        assert sh(*CURL, "--http2-prior-knowledge", "--data", "twelve bytes", url) == "twelve bytes"


@case
def an_offer_of_h2c_by_upgrade_is_answered_in_http_1_1():
    with application() as app, Queue(app) as queue:
        assert written("--http2", f"http://127.0.0.1:{queue.http}") == "200 1.1 1"


@case
def tls_with_both_protocols_by_alpn():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue:
        assert written(*secure(queue, certificates, "--http2")) == "200 2 1"
        assert written(*secure(queue, certificates, "--http1.1")) == "200 1.1 1"
        assert written(*secure(queue, certificates, "--no-alpn")) == "200 1.1 1"
        contains(sh(*CURL, "--verbose", *secure(queue, certificates)), "TLSv1.3", "SSL certificate verify ok")
    certificates.close()


@case
def what_must_be_refused_is_refused():
    certificates, other = Certificates(), Certificates()
    with application() as app, Queue(app, certificates) as queue:
        # 60: the peer's certificate cannot be verified; 35: no handshake.
        written(*secure(queue, other), status=60)
        wrong_name = f"https://kn-user-other:{queue.tls}/"
        resolve = ["--resolve", f"kn-user-other:{queue.tls}:127.0.0.1"]
        written("--cacert", certificates.ca, *resolve, wrong_name, status=60)
        written(*secure(queue, certificates, "--tls-max", "1.2"), status=35)
        contains(sh(*CURL, f"http://127.0.0.1:{queue.tls}/"), "Client sent an HTTP request to an HTTPS server.")
    certificates.close()
    other.close()


@case
def uploads_come_back_as_they_were():
    certificates = Certificates()
    with application() as app, Queue(app, certificates) as queue, tempfile.TemporaryDirectory() as place:
        file, back = pathlib.Path(place) / "up", pathlib.Path(place) / "back"
        file.write_bytes(os.urandom(20 << 20))
        wanted = hashlib.sha256(file.read_bytes()).digest()
        plain = f"http://127.0.0.1:{queue.http}/"
        ways = [
            [plain],
            ["--http2-prior-knowledge", plain],
            ["--header", "Expect: 100-continue", plain],
            ["--header", "Transfer-Encoding: chunked", plain],
            secure(queue, certificates, "--http2"),
            secure(queue, certificates, "--http1.1"),
        ]
        for way in ways:
            sh(*CURL, "--upload-file", file, "--output", back, *way)
            assert hashlib.sha256(back.read_bytes()).digest() == wanted, f"{way}"
    certificates.close()


@case
def an_expectation_is_answered_before_the_body():
    with application() as app, Queue(app) as queue:
        url = f"http://127.0.0.1:{queue.http}/"
        output = sh(*CURL, "--verbose", "--http1.1", "--header", "Expect: 100-continue", "--data", "x", url)
        contains(output, "HTTP/1.1 100 Continue", "HTTP/1.1 200 OK")


@case
def errors_name_their_cause():
    with application() as app:
        pass
    with Queue(app) as queue:
        for option in ["--http1.1", "--http2-prior-knowledge"]:
            output = sh(*CURL, "--include", option, f"http://127.0.0.1:{queue.http}/").lower()
            contains(output, " 502", "x-lockkeeper-cause: upstream_refused")


@case
def an_upgrade_to_websocket():
    import websocket_app

    with websocket_app.server() as app, Queue(app) as queue:
        if " ws " in sh("curl", "--version"):
            # From 8.11 on curl speaks WebSocket itself.
            output = sh(*CURL, "--include", "--max-time", "3", f"ws://127.0.0.1:{queue.http}/", status=None)
        else:
            headers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                       "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
            options = [part for header in headers for part in ("--header", header)]
            output = sh(*CURL, "--include", "--http1.1", "--max-time", "3", *options, f"http://127.0.0.1:{queue.http}/", status=None)
        contains(output.lower(), "http/1.1 101", "sec-websocket-accept: ")


if __name__ == "__main__":
    run()
