"""The client of a case: the very bytes that it sends, and what comes back, over a socket of its own."""

import asyncio
import base64
import gzip
import json
import re
import socket
import struct
import time
import zlib
from dataclasses import dataclass, field

from tests.edge.forms import PATHS

READ_BYTES = 65_536
TIMEOUT_S = 25
# Where a user of an SDK breaks the loop: the event that says why or that the text is done.
FINISHED = re.compile(
    rb'"(?:finish_reason|stop_reason)": ?"[a-z_]+"|response\.output_text\.done|response\.content_part\.done'
)


@dataclass
class Answer:
    status: int | None = None
    headers: dict = field(default_factory=dict)
    body: bytes = b""
    took_s: float = 0.0
    # The server had neither ended the response nor the connection when the client's patience ended.
    open: bool = False

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")


def brotli_stored(data):
    """A brotli stream (RFC 7932) of uncompressed meta-blocks: a valid encoding that needs no library."""
    out = bytearray()
    window = True
    for at in range(0, len(data), 65_536):
        block = data[at : at + 65_536]
        # The first one carries the window's bit (0: 16 bits); then not the last, four nibbles of length, stored.
        bits = ((len(block) - 1) << 3 | 1 << 19) << (1 if window else 0)
        out += bits.to_bytes(3, "little") + block
        window = False
    return bytes(out) + (b"\x06" if window else b"\x03")


def encoded(data, encoding):
    if encoding == "zstd":
        import zstandard

        return zstandard.compress(data)
    return {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli_stored}[encoding](data)


def request_bytes(request, key, model, protocol):
    """The request as it goes over the wire."""
    headers = {
        "host": "gateway.test",
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "connection": "close",
    }
    if protocol == "messages":
        headers["anthropic-version"] = "2023-06-01"
    for name, value in (request.get("headers") or {}).items():
        headers.pop(name.lower(), None)
        if value is not None:
            headers[name.lower()] = str(value).replace("{key}", key)
    body = body_bytes(request, model)
    if encoding := request.get("encode"):
        body = encoded(body, encoding)
        headers["content-encoding"] = encoding
    method = request.get("method", "POST")
    if method == "POST" or body:
        if request.get("chunked"):
            headers["transfer-encoding"] = "chunked"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            headers["content-length"] = str(len(body))
    path = request.get("path", PATHS[protocol]).replace("{model}", model)
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [line.replace("{key}", key) for line in request.get("lines") or []]
    return "".join(line + "\r\n" for line in [*lines, ""]).encode() + body


def body_bytes(request, model):
    if "base64" in request:
        return base64.b64decode(request["base64"])
    if "text" in request:
        body = request["text"].encode()
    elif request.get("body") is None:
        return b""
    else:
        body = json.dumps(request["body"], ensure_ascii=False).encode()
    body = re.sub(rb'"model": ?"m"', b'"model": "%b"' % model.encode(), body)
    return (b"\xef\xbb\xbf" if request.get("bom") else b"") + body


def left(mode, out):
    """True if a client of this mode goes away now."""
    if mode == "stops at finish_reason":
        return FINISHED.search(out) is not None
    if isinstance(mode, dict) and "resets_after_events" in mode:
        return out.count(b"\ndata:") + out.startswith(b"data:") >= mode["resets_after_events"]
    if isinstance(mode, dict) and "resets_after_text" in mode:
        return mode["resets_after_text"].encode() in out
    return False


async def ask(port, request, key, model, protocol, mode="all", asked=None):
    """An `Answer`. Where the client leaves early it resets the connection, as a process that ends does.

    `asked` is set once an upstream has the request: `{resets_when_asked: ms}` leaves so long after that, however slow the
    machine is.
    """
    data = request_bytes(request, key, model, protocol)
    began = time.monotonic()
    wait_s = request.get("timeout_s", TIMEOUT_S)
    if isinstance(mode, dict) and "resets_after_ms" in mode:
        wait_s = min(wait_s, mode["resets_after_ms"] / 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    out, cut = b"", False
    try:
        writer.write(data)
        if isinstance(mode, dict) and "resets_when_asked" in mode:
            await asyncio.wait_for(asked.wait(), wait_s)
            wait_s = mode["resets_when_asked"] / 1000
        async with asyncio.timeout(wait_s):
            await writer.drain()
            while read := await reader.read(READ_BYTES):
                out += read
                if left(mode, out):
                    cut = True
                    break
    except TimeoutError:
        cut = True
    except OSError:
        pass  # what came until then is what a client has
    if cut and mode != "all":
        reset(writer)
    else:
        writer.close()
    answer = parsed(out)
    answer.took_s = time.monotonic() - began
    answer.open = cut and mode == "all"
    return answer


def reset(writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def parsed(out):
    """An `Answer` of the bytes of one response; of one that broke off, what there is. Interim responses are left out."""
    head, _, rest = out.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 1"):
        head, _, rest = rest.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    answer = Answer()
    if not lines[0].startswith("HTTP/1."):
        return answer
    answer.status = int(lines[0].split(" ")[1])
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            answer.headers.setdefault(name.lower(), value.strip())
    answer.body = unchunked(rest) if "chunked" in answer.headers.get("transfer-encoding", "") else rest
    return answer


def unchunked(rest):
    body = b""
    while rest:
        line, _, rest = rest.partition(b"\r\n")
        size = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]+", size) or not int(size, 16):
            break
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return body
