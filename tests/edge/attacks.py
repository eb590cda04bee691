"""What a hostile client or upstream sends within the limits. Each is bounded in bytes and time and goes to loopback alone."""

import contextlib
import socket
import threading
import time

from tests.edge.wire import request_bytes

MB = 2**20
ATTACK_S = 10
PIECE = 256 * 1024


class Target:
    """Where an attack goes: the gateway, a key, and a model whose upstream is the attacker's."""

    def __init__(self, port, key, model):
        self.port, self.key, self.model = port, key, model
        self.until_s = time.monotonic() + ATTACK_S

    @contextlib.contextmanager
    def connection(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=ATTACK_S) as sock:
            yield sock

    def pour(self, sock, data, total):
        """Send `data` again and again until `total` bytes, the time is over, or nobody takes them. Returns the bytes sent."""
        sent = 0
        sock.settimeout(1)
        with contextlib.suppress(OSError):
            while sent < total and time.monotonic() < self.until_s:
                sock.sendall(data)
                sent += len(data)
        return sent

    def at_once(self, count, work):
        threads = [threading.Thread(target=self._quietly, args=(work,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(ATTACK_S * 3)

    def _quietly(self, work):
        with contextlib.suppress(OSError):
            work()

    def rest(self, sock):
        """Stay connected and take nothing until the time is over or the other side ends it."""
        with contextlib.suppress(OSError):
            while time.monotonic() < self.until_s:
                sock.settimeout(max(0.01, self.until_s - time.monotonic()))
                if not sock.recv(1, socket.MSG_PEEK):
                    return
                time.sleep(0.05)  # between two looks, as there is data that this client does not take

    def ask(self, body=None, *, stream=False, **request):
        body = body or {
            "model": "m",
            "max_tokens": 100,
            "stream": stream,
            "messages": [{"role": "user", "content": "hi"}],
        }
        return request_bytes({"body": body, **request}, self.key, self.model, "chat")

    def head(self, path, *lines):
        said = [
            f"POST {path} HTTP/1.1",
            "host: gateway.test",
            f"authorization: Bearer {self.key}",
            "content-type: application/json",
            *lines,
        ]
        return ("\r\n".join(said) + "\r\n\r\n").encode()


def trailers(target, path="/api/sign-in"):
    """120 MB of trailers behind a chunked body."""
    with target.connection() as sock:
        sock.sendall(target.head(path, "transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\n")
        line = b"a: b\r\n"
        target.pour(sock, line * (PIECE // len(line)), 120 * MB)


def trailers_on_the_data_plane(target):
    trailers(target, "/v1/chat/completions")


def half_bodies(target):
    """60 clients that send nearly all of a body and wait."""

    def one():
        with target.connection() as sock:
            sock.sendall(target.head("/v1/chat/completions", f"content-length: {16 * MB}"))
            target.pour(sock, b" " * PIECE, 15 * MB)
            target.rest(sock)

    target.at_once(60, one)


def bodies_on_the_control_plane(target):
    def one():
        with target.connection() as sock:
            sock.sendall(target.head("/api/sign-in", f"content-length: {16 * MB}"))
            target.pour(sock, b"{" + b" " * PIECE, 15 * MB)
            target.rest(sock)

    target.at_once(20, one)


def one_byte_chunks(target):
    def one():
        with target.connection() as sock:
            sock.sendall(target.head("/v1/chat/completions", "transfer-encoding: chunked"))
            target.pour(sock, b"1\r\n \r\n" * 20_000, 12 * MB)

    target.at_once(4, one)


def bodies_of_small_things(target):
    """A body within the limits that is a million objects."""

    def one():
        with target.connection() as sock:
            body = b'{"model":"m","messages":[' + b",".join([b'{"a":1}'] * 1_500_000) + b"]}"
            sock.sendall(target.head("/v1/chat/completions", f"content-length: {len(body)}"))
            target.pour(sock, body, len(body))
            target.rest(sock)

    target.at_once(4, one)


def compressed_bodies(target):
    """A few kilobytes that are a gigabyte."""

    def one():
        with target.connection() as sock:
            target.pour(
                sock,
                target.head("/v1/chat/completions", "content-encoding: gzip", f"content-length: {len(BOMB)}")
                + BOMB,
                1,
            )
            target.rest(sock)

    target.at_once(8, one)


def compressed_many_times(mib):
    """gzip of so many MiB of blanks, made in pieces."""
    from zlib import MAX_WBITS, compressobj

    packer = compressobj(9, wbits=MAX_WBITS | 16)
    return b"".join([*(packer.compress(b" " * MB) for _ in range(mib)), packer.flush()])


BOMB = compressed_many_times(512)


def endless_header_line(target):
    """What the upstream says never comes to an end of its first header."""
    asks_and_rests(target, 4)


def asks_and_rests(target, count, *, stream=False):
    def one():
        with target.connection() as sock:
            sock.sendall(target.ask(stream=stream))
            target.rest(sock)

    target.at_once(count, one)


def slow_readers(target):
    """Large answers that are not taken."""
    asks_and_rests(target, 20)


def events_without_newline(target):
    asks_and_rests(target, 20, stream=True)


def reads(target, count, *, stream=False):
    def one():
        with target.connection() as sock:
            sock.sendall(target.ask(stream=stream))
            while time.monotonic() < target.until_s and sock.recv(PIECE):
                pass

    target.at_once(count, one)


def answer_in_one_byte_chunks(target):
    reads(target, 4, stream=True)


def compressed_answers(target):
    reads(target, 8)


def large_events(target):
    reads(target, 6, stream=True)


class Evil(threading.Thread):
    """An upstream of the attacker's: whatever it is asked, it does its one thing, in blocking threads."""

    def __init__(self, behaviour):
        super().__init__(daemon=True)
        self.behaviour = behaviour
        self.until_s = time.monotonic() + ATTACK_S
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def close(self):
        self.listener.close()

    def _serve(self, sock):
        with contextlib.suppress(OSError), sock:
            sock.settimeout(1)
            received = b""
            while b"\r\n\r\n" not in received:
                received += sock.recv(65_536)
            for data in self.behaviour():
                if time.monotonic() > self.until_s:
                    return
                sock.sendall(data)


def _endless_header():
    yield b"HTTP/1.1 200 OK\r\nx-long: "
    for _ in range(64 * MB // PIECE):
        yield b"a" * PIECE


def _large_answer():
    yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (60 * MB)
    for _ in range(60 * MB // PIECE):
        yield b" " * PIECE


EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _no_newline():
    yield EVENTS_HEAD
    for _ in range(15 * MB // PIECE):
        yield b"%x\r\n%b\r\n" % (PIECE, b"data: " + b"a" * (PIECE - 6))


def _one_byte_chunks():
    yield EVENTS_HEAD
    event = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    for _ in range(400):
        yield b"".join(b"1\r\n%c\r\n" % byte for byte in event * 20)


def _bomb():
    yield (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
        % len(BOMB)
    )
    yield BOMB


def _large_events():
    yield EVENTS_HEAD
    for _ in range(3):
        yield LARGE_EVENT


LARGE_EVENT = (
    b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"a","things":[%b]}}],"usage":null}\n\n'
    % b",".join([b'{"a":1}'] * 400_000)
)
LARGE_EVENT = b"%x\r\n%b\r\n" % (len(LARGE_EVENT), LARGE_EVENT)


# attack: (what the client does, what the upstream does)
ATTACKS = {
    "trailers": (trailers, None),
    "trailers on the data plane": (trailers_on_the_data_plane, None),
    "half bodies": (half_bodies, None),
    "bodies on the control plane": (bodies_on_the_control_plane, None),
    "one-byte chunks": (one_byte_chunks, None),
    "bodies of small things": (bodies_of_small_things, None),
    "compressed bodies": (compressed_bodies, None),
    "endless header line": (endless_header_line, _endless_header),
    "slow readers": (slow_readers, _large_answer),
    "events without newline": (events_without_newline, _no_newline),
    "answer in one-byte chunks": (answer_in_one_byte_chunks, _one_byte_chunks),
    "compressed answers": (compressed_answers, _bomb),
    "large events": (large_events, _large_events),
}
