"""grpcio on both sides, over h2c and over TLS: the four kinds of call, metadata, statuses, deadlines, cancellation."""
import concurrent.futures
import contextlib
import threading
import time

import grpc
from harness import NAME, PATIENCE, Certificates, Queue, case, eventually, run


class Handler(grpc.GenericRpcHandler):
    """Methods without generated code: messages are bytes."""

    cancelled = threading.Event()

    def service(self, details):
        kinds = {
            "/test.Echo/Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "/test.Echo/Download": grpc.unary_stream_rpc_method_handler(self.download),
            "/test.Echo/Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "/test.Echo/Talk": grpc.stream_stream_rpc_method_handler(self.talk),
            "/test.Echo/Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "/test.Echo/Hang": grpc.unary_unary_rpc_method_handler(self.hang),
        }
        return kinds.get(details.method)

    def unary(self, request, context):
        sent = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-initial", "first"),))
        context.set_trailing_metadata((("x-trailing", "last"), ("x-bytes-bin", sent.get("x-bytes-bin", b"none"))))
        return request

    def download(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number

    def upload(self, requests, context):
        return b"%d" % sum(len(request) for request in requests)

    def talk(self, requests, context):
        for request in requests:
            yield request.upper()
        context.set_trailing_metadata((("x-trailing", "talked"),))

    def fail(self, request, context):
        context.set_trailing_metadata((("x-why", "because"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing \u00fcber here")

    def hang(self, request, context):
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(PATIENCE)
        return b""


@contextlib.contextmanager
def server():
    listening = grpc.server(concurrent.futures.ThreadPoolExecutor(32), options=LARGE)
    listening.add_generic_rpc_handlers((Handler(),))
    port = listening.add_insecure_port("127.0.0.1:0")
    listening.start()
    Handler.cancelled.clear()
    try:
        yield port
    finally:
        Handler.cancelled.set()
        listening.stop(None)


LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def plain(queue):
    return grpc.insecure_channel(f"127.0.0.1:{queue.http}", LARGE)


def secure(queue, certificates):
    trust = grpc.ssl_channel_credentials(certificates.ca.read_bytes())
    options = [*LARGE, ("grpc.ssl_target_name_override", NAME)]
    return grpc.secure_channel(f"127.0.0.1:{queue.tls}", trust, options)


def every_kind(channel):
    reply, call = channel.unary_unary("/test.Echo/Unary").with_call(
        b"ping", timeout=PATIENCE, metadata=(("x-bytes-bin", b"\x00\xff\x01"),)
    )
    assert reply == b"ping"
    assert dict(call.initial_metadata())["x-initial"] == "first"
    trailing = dict(call.trailing_metadata())
    assert (trailing["x-trailing"], trailing["x-bytes-bin"]) == ("last", b"\x00\xff\x01"), trailing

    download = channel.unary_stream("/test.Echo/Download")(b"500", timeout=PATIENCE)
    assert list(download) == [b"%d" % number for number in range(500)]

    pieces = [b"x" * size for size in (0, 1, 70_000, 1 << 20)]
    assert channel.stream_unary("/test.Echo/Upload")(iter(pieces), timeout=PATIENCE) == b"%d" % sum(map(len, pieces))

    big = bytes(range(256)) * (3 << 12)
    assert channel.unary_unary("/test.Echo/Unary")(big, timeout=PATIENCE) == big

    # One message at a time: the answer to each has to come before the next is sent.
    turn, replies = threading.Semaphore(1), []

    def requests():
        for number in range(50):
            assert turn.acquire(timeout=PATIENCE)
            yield b"message %d" % number

    talk = channel.stream_stream("/test.Echo/Talk")(requests(), timeout=PATIENCE)
    for reply in talk:
        replies.append(reply)
        turn.release()
    assert replies == [b"MESSAGE %d" % number for number in range(50)]
    assert dict(talk.trailing_metadata())["x-trailing"] == "talked"

    status = failure(channel, "/test.Echo/Fail")
    assert (status.code(), status.details()) == (grpc.StatusCode.NOT_FOUND, "nothing \u00fcber here"), status
    assert dict(status.trailing_metadata())["x-why"] == "because"
    assert failure(channel, "/test.Echo/Nothing").code() == grpc.StatusCode.UNIMPLEMENTED


def failure(channel, method, timeout=PATIENCE):
    try:
        channel.unary_unary(method)(b"x", timeout=timeout)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"{method} did not fail")


@case
def every_kind_of_call_over_h2c():
    with server() as app, Queue(app) as queue, plain(queue) as channel:
        every_kind(channel)


@case
def every_kind_of_call_over_tls():
    certificates = Certificates()
    with server() as app, Queue(app, certificates) as queue, secure(queue, certificates) as channel:
        every_kind(channel)
    certificates.close()


@case
def a_caller_who_cancels_reaches_the_application():
    with server() as app, Queue(app) as queue, plain(queue) as channel:
        call = channel.unary_unary("/test.Echo/Hang").future(b"x", timeout=PATIENCE)
        time.sleep(0.2)
        call.cancel()
        assert Handler.cancelled.wait(PATIENCE), "the application was not told"


@case
def a_deadline_is_kept():
    with server() as app, Queue(app) as queue, plain(queue) as channel:
        assert failure(channel, "/test.Echo/Hang", 0.5).code() == grpc.StatusCode.DEADLINE_EXCEEDED


@case
def errors_of_the_queue_are_statuses():
    with server() as app:
        with Queue(app, REVISION_TIMEOUT_SECONDS="1") as queue, plain(queue) as channel:
            error = failure(channel, "/test.Echo/Hang")
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
            assert dict(error.trailing_metadata() or error.initial_metadata()).get("x-lockkeeper-cause"), error
    with Queue(app) as queue, plain(queue) as channel:
        error = failure(channel, "/test.Echo/Unary")
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error


@case
def many_streams_at_once_on_one_connection():
    with server() as app, Queue(app) as queue, plain(queue) as channel:
        calls = [channel.unary_unary("/test.Echo/Unary").future(b"%d" % n, timeout=PATIENCE) for n in range(1000)]
        assert [call.result() for call in calls] == [b"%d" % n for n in range(1000)]


@case
def a_drain_moves_callers_without_an_error():
    with server() as app, Queue(app, LOCKKEEPER_DRAIN_QUIET_PERIOD="1s") as queue, plain(queue) as channel:
        call = channel.unary_unary("/test.Echo/Unary")
        assert call(b"x", timeout=PATIENCE) == b"x"
        queue.signal()
        eventually("the drain began", lambda: "gracefully shutdown" in queue.log())
        for number in range(100):
            assert call(b"%d" % number, timeout=PATIENCE, wait_for_ready=True) == b"%d" % number


if __name__ == "__main__":
    run()
