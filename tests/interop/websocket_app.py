"""A WebSocket application of the Python package websockets: greets, then echoes."""
import contextlib
import logging
import threading

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

logging.getLogger("websockets").setLevel(logging.CRITICAL)


def talk(connection):
    with contextlib.suppress(ConnectionClosed):
        connection.send("hello")
        for message in connection:
            if message == "close 4001":
                connection.close(4001, "as asked")
                return
            connection.send(message)


@contextlib.contextmanager
def server(**options):
    with serve(talk, "127.0.0.1", 0, max_size=None, **options) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield listening.socket.getsockname()[1]
        finally:
            listening.shutdown()
