"""An upstream that sends exactly the bytes that a test wrote down, and keeps what it was sent."""

import contextlib
import re
import socket
import threading

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class RawUpstream:
    """`answer`: bytes, or a function of (head, body) that gives pieces; each connection is ended after its answer where
    `closes`. Health checks get an empty list.
    """

    def __init__(self, answer=b"", *, closes=False):
        self.answer = answer
        self.closes = closes
        self.heads = []
        self.bodies = []
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.stopped = False

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopped = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    got = connection.recv(262_144)
                    if not got:
                        return
                    data += got
                head, _, data = data.partition(b"\r\n\r\n")
                found = _LENGTH.search(head)
                length = int(found[1]) if found else 0
                while len(data) < length:
                    got = connection.recv(262_144)
                    if not got:
                        return
                    data += got
                body, data = data[:length], data[length:]
                if head.startswith(b"GET"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    continue
                self.heads.append(head.lower())
                self.bodies.append(body)
                for piece in self.answer(head, body) if callable(self.answer) else (self.answer,):
                    connection.sendall(piece)
                if self.closes:
                    return


def whole(body, *lines, status=b"200 OK"):
    """A response with its length."""
    head = b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in lines)
    return head + b"content-length: %d\r\n\r\n" % len(body) + body
