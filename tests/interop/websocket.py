"""The Python package websockets on both sides: messages of all kinds, closes, compression, TLS, drain."""
import os
import ssl
import threading

import websocket_app
from harness import NAME, PATIENCE, Certificates, Queue, case, run
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def talk(client):
    assert client.recv(PATIENCE) == "hello"
    for message in ["text", "\u00fc\u4e16", b"\x00\x01binary", os.urandom(1 << 20), "x" * 70_000, b""]:
        client.send(message)
        assert client.recv(PATIENCE) == message
    client.send(["in ", "three ", "fragments"])
    assert client.recv(PATIENCE) == "in three fragments"
    assert client.ping(b"12345678").wait(PATIENCE)


@case
def messages_pass_in_plaintext():
    with websocket_app.server() as app, Queue(app) as queue:
        for compression in [None, "deflate"]:
            with connect(f"ws://127.0.0.1:{queue.http}/", compression=compression, max_size=None) as client:
                talk(client)


@case
def messages_pass_over_tls():
    certificates = Certificates()
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    trust.set_alpn_protocols(["http/1.1"])
    with websocket_app.server() as app, Queue(app, certificates) as queue:
        import socket

        raw = socket.create_connection(("127.0.0.1", queue.tls))
        with connect(f"wss://{NAME}:{queue.tls}/", sock=raw, ssl=trust, server_hostname=NAME, max_size=None) as client:
            talk(client)
    certificates.close()


@case
def a_subprotocol_is_negotiated_with_the_application():
    with websocket_app.server(subprotocols=["soup", "salad"]) as app, Queue(app) as queue:
        with connect(f"ws://127.0.0.1:{queue.http}/", subprotocols=["salad"]) as client:
            assert client.subprotocol == "salad"


@case
def close_codes_pass_both_ways():
    with websocket_app.server() as app, Queue(app) as queue:
        with connect(f"ws://127.0.0.1:{queue.http}/") as client:
            assert client.recv(PATIENCE) == "hello"
            client.send("close 4001")
            try:
                client.recv(PATIENCE)
                raise AssertionError("the application has closed")
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "as asked"), closed
        with connect(f"ws://127.0.0.1:{queue.http}/") as client:
            client.close(4002, "enough")
            assert client.close_code == 4002


@case
def a_hundred_at_once():
    with websocket_app.server() as app, Queue(app) as queue:
        wrong = []

        def one(number):
            try:
                with connect(f"ws://127.0.0.1:{queue.http}/", open_timeout=PATIENCE) as client:
                    assert client.recv(PATIENCE) == "hello"
                    for turn in range(20):
                        client.send(f"{number} {turn}")
                        assert client.recv(PATIENCE) == f"{number} {turn}"
            except Exception as error:
                wrong.append(f"{number}: {error!r}")

        threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, wrong[:5]


@case
def the_end_of_the_grace_period_is_told_by_1001():
    with websocket_app.server() as app, Queue(app, LOCKKEEPER_SHUTDOWN_GRACE="2s") as queue:
        with connect(f"ws://127.0.0.1:{queue.http}/") as client:
            assert client.recv(PATIENCE) == "hello"
            queue.signal()
            client.send("still here")
            assert client.recv(PATIENCE) == "still here"
            try:
                client.recv(PATIENCE)
                raise AssertionError("the connection outlived the grace period")
            except ConnectionClosed as closed:
                assert closed.rcvd is not None and closed.rcvd.code == 1001, closed
        assert queue.exit() == 0


if __name__ == "__main__":
    run()
