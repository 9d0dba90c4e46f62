"""What the interoperability scripts share: the queue as a child process, certificates, an application, and counting.

A script registers cases with @case and ends with run(). A case passes when it returns, fails when it raises, and is
skipped only by raising Skip; with CI=true a skip is a failure unless it says that the thing cannot exist there.
"""
import contextlib
import http.server
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

BINARY = os.environ.get("LOCKKEEPER") or str(pathlib.Path(__file__).parents[2] / "target/release/lockkeeper")
PATIENCE = float(os.environ.get("LOCKKEEPER_TEST_PATIENCE", "20"))
NAME = "kn-user-default"
CASES = []


class Skip(Exception):
    """Why a case cannot be run here."""

    def __init__(self, why, impossible=False):
        super().__init__(why)
        self.impossible = impossible


def case(function):
    CASES.append(function)
    return function


def run():
    """Runs every case; the last line counts them."""
    passed, failed, skipped = 0, 0, 0
    for function in CASES:
        what = function.__name__.replace("_", " ")
        try:
            function()
        except Skip as skip:
            if os.environ.get("CI") == "true" and not skip.impossible:
                failed += 1
                print(f"FAILED {what}: skipped in CI: {skip}")
            else:
                skipped += 1
                print(f"skipped {what}: {skip}")
        except Exception as error:  # the next case has to run all the same
            failed += 1
            print(f"FAILED {what}: {error}")
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        else:
            passed += 1
            print(f"ok {what}")
        sys.stdout.flush()
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


def need(program, package):
    """A program, installed by Debian's package manager if it is missing."""
    if shutil.which(program):
        return program
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", package], **quiet)
    if not shutil.which(program):
        raise Skip(f"{program} is missing, and so is Debian's package {package}")
    return program


def sh(*command, status=0, timeout=None, stdin=""):
    """Runs a command to its end; its output, both streams."""
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=timeout or PATIENCE * 3,
        errors="replace",
    )
    output = done.stdout + done.stderr
    if status is not None and done.returncode != status:
        raise AssertionError(f"{' '.join(map(str, command))}: status {done.returncode}, not {status}\n{output}")
    return output


def eventually(what, ask):
    """Asks until there is an answer that counts as true."""
    limit = time.monotonic() + PATIENCE
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > limit:
            raise AssertionError(f"did not happen within {PATIENCE} s: {what}")
        time.sleep(0.02)


def contains(text, *parts):
    for part in parts:
        assert part in text, f"{part!r} is not in:\n{text}"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Certificates:
    """An authority and a leaf in a directory of their own."""

    def __init__(self, *arguments):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="lockkeeper-interop-"))
        sh(BINARY, "certs", "mint", "--dir", self.dir, "--san", "localhost", *arguments)
        self.ca = self.dir / "ca.crt"

    def close(self):
        shutil.rmtree(self.dir, ignore_errors=True)


def environment(app, **settings):
    """The environment of a revision's pod."""
    env = {
        "CONTAINER_CONCURRENCY": "0",
        "QUEUE_SERVING_PORT": "0",
        "QUEUE_SERVING_TLS_PORT": "0",
        "REVISION_TIMEOUT_SECONDS": "300",
        "SERVING_LOGGING_CONFIG": "",
        "SERVING_LOGGING_LEVEL": "",
        "SERVING_NAMESPACE": "default",
        "SERVING_SERVICE": "hello",
        "SERVING_CONFIGURATION": "hello",
        "SERVING_REVISION": "hello-00001",
        "SERVING_POD": "hello-00001-deployment-0",
        "SERVING_POD_IP": "127.0.0.1",
        "USER_PORT": str(app),
        "SERVING_READINESS_PROBE": '{"tcpSocket":{"port":%d,"host":"127.0.0.1"},"successThreshold":1}' % app,
        "LOCKKEEPER_ADMIN_PORT": "0",
        "LOCKKEEPER_STATS_PORT": "0",
        "LOCKKEEPER_CERT_DIR": "/nonexistent/lockkeeper-interop",
        "LOCKKEEPER_DRAIN_QUIET_PERIOD": "0s",
    }
    env.update({name: str(value) for name, value in settings.items()})
    return env


class Queue:
    """A running queue; `http` and `tls` are its ports."""

    def __init__(self, app, certificates=None, command=None, **settings):
        if certificates is not None:
            settings["LOCKKEEPER_CERT_DIR"] = getattr(certificates, "dir", certificates)
        self.lines = []
        self.process = subprocess.Popen(
            command or [BINARY, "queue"], env=environment(app, **settings), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.http = self.port("http server main:")
        self.admin = self.port("server admin:")
        self.tls = self.port("tls server main:") if certificates is not None else None

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def log(self):
        return "".join(self.lines)

    def port(self, server):
        def ask():
            found = re.search(re.escape(server) + r"(\d+)", self.log())
            if not found and self.process.poll() is not None:
                raise AssertionError(f"the queue has ended with {self.process.returncode}:\n{self.log()}")
            return found

        return int(eventually(f"a log line with {server}", ask).group(1))

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def exit(self):
        return self.process.wait(PATIENCE)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()
        if kind and not issubclass(kind, Skip):
            print(f"--- log of the queue\n{self.log()}---")


class Echo(http.server.BaseHTTPRequestHandler):
    """Python's own HTTP/1.1 server: a greeting for GET, the body for POST and PUT."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                if size == 0:
                    while self.rfile.readline().strip():
                        pass
                    return b"".join(pieces)
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def answer(self, body, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Host", self.headers.get("Host", ""))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        if self.path.startswith("/status/"):
            return self.answer(b"", int(self.path.rsplit("/", 1)[1]))
        if self.path.startswith("/slow/"):
            time.sleep(float(self.path.rsplit("/", 1)[1]))
        self.answer(b"hello from the application\n")

    do_HEAD = do_GET

    def do_POST(self):
        self.answer(self.body())

    do_PUT = do_POST


class Server(http.server.ThreadingHTTPServer):
    """With room for a crowd: five connections may wait by default, and the rest try again after a second."""

    daemon_threads = True
    request_queue_size = 512


@contextlib.contextmanager
def application(handler=Echo):
    """An application on a free port of loopback."""
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
