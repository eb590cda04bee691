"""The upstream of a case: a listener of its own a deployment, which answers what the case says and keeps what it saw."""

import asyncio
import base64
import contextlib
import gzip
import json
import time
from dataclasses import dataclass, field
from email.utils import formatdate

HEAD_BYTES_MAX = 2**20
BODY_BYTES_MAX = 2**27
HANG_S = 30
NAMED_EVENTS = ("messages", "responses")


@dataclass
class Hit:
    """One request that reached an upstream."""

    place: int
    path: str
    headers: dict
    body: object
    raw: bytes
    # What was written of the answer, and whether it went out to its end.
    events: int = 0
    whole: bool = False


@dataclass
class Seen:
    """What all deployments of a case saw, in order."""

    hits: list = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)


class Stub:
    def __init__(self, place, model, protocol, answers, seen):
        self.place = place
        self.model = model
        self.protocol = protocol
        self.answers = answers
        self.seen = seen

    async def open(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        self.port = self.server.sockets[0].getsockname()[1]

    def close(self):
        self.server.close()

    async def _serve(self, reader, writer):
        with contextlib.suppress(
            asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, asyncio.CancelledError
        ):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader, writer):
        """Answer one request; False where the connection ends with it."""
        method, path, headers, raw = await read_request(reader)
        if method in {"GET", "HEAD"}:  # a look at whether it lives
            listed = json.dumps({"object": "list", "data": [{"id": self.model, "object": "model"}]}).encode()
            writer.write(
                sized(200, [("content-type", "application/json")], listed, head_only=method == "HEAD")
            )
            await writer.drain()
            return True
        body = None
        with contextlib.suppress(ValueError):
            body = json.loads(raw)
        hit = Hit(self.place, path, headers, body, raw)
        self.seen.hits.append(hit)
        self.seen.asked.set()
        answer = self._fitting(hit)
        await asyncio.sleep(answer.get("delay_ms", 0) / 1000)
        if "bytes" in answer:
            writer.write(base64.b64decode(answer["bytes"]))
            await writer.drain()
            hit.whole = True
            return not answer.get("close", True)
        if "events" in answer:
            return await self._stream(writer, answer, hit)
        writer.write(self._body(answer))
        await writer.drain()
        hit.whole = True
        return True

    def _fitting(self, hit):
        """The first answer whose condition holds, else the last."""
        for answer in self.answers:
            asked = answer.get("if")
            if (
                not asked
                or ("body_has" in asked and isinstance(hit.body, dict) and asked["body_has"] in hit.body)
                or ("header" in asked and asked["header"] in hit.headers)
                or ("attempt" in asked and asked["attempt"] == len(self.seen.hits))
            ):
                return answer
        return self.answers[-1]

    def _body(self, answer):
        if "base64" in answer:
            body = base64.b64decode(answer["base64"])
        else:
            body = (answer["text"] if "text" in answer else json.dumps(answer.get("json"))).encode()
        headers = headers_of(answer)
        if answer.get("encode") == "gzip":
            body = gzip.compress(body)
            headers.append(("content-encoding", "gzip"))
        if answer.get("content_type", True) and not any(
            name.lower() == "content-type" for name, _ in headers
        ):
            headers.append(("content-type", "application/json"))
        return sized(answer.get("status", 200), headers, body)

    async def _stream(self, writer, answer, hit):
        headers = headers_of(answer)
        if not any(name.lower() == "content-type" for name, _ in answer_headers(answer)):
            headers.append(("content-type", "text/event-stream"))
        writer.write(head(answer.get("status", 200), [*headers, ("transfer-encoding", "chunked")]))
        await writer.drain()
        for told in answer["events"]:
            told = (
                told
                if isinstance(told, dict)
                else {"raw": told if told.endswith("\n") else f"data: {told}\n\n"}
            )
            for number in range(told.get("times", 1)):
                await asyncio.sleep(told.get("gap", 0) / 1000)
                if event := self._event(told, number):
                    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                    await writer.drain()
                    hit.events += 1
                await asyncio.sleep(answer.get("gap_ms", 2) / 1000)
        end = answer.get("end", "clean")
        if end == "abort":
            writer.transport.abort()
            return False
        if end == "hang":
            await asyncio.sleep(HANG_S)
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        hit.whole = True
        return True

    def _event(self, told, number):
        if "raw" in told:
            return told["raw"].encode()
        if "base64" in told:
            return base64.b64decode(told["base64"])
        if "data" not in told:
            return b""
        data = told["data"]
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("%i", str(number))
        name = told.get("event")
        if name is None and self.protocol in NAMED_EVENTS and isinstance(data, dict):
            name = data.get("type")
        return ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode()


async def read_request(reader):
    """(method, path, headers, body) of the next request on a connection."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    headers = {}
    for line in filter(None, lines[1:]):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readline()).partition(b";")[0], 16):
            assert len(body) + size <= BODY_BYTES_MAX
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        size = int(headers.get("content-length", 0))
        assert size <= BODY_BYTES_MAX
        body = await reader.readexactly(size)
    return method, path, headers, body


def answer_headers(answer):
    """The (name, value) pairs that a case gives, as a mapping or as a list of pairs."""
    given = answer.get("headers") or {}
    return [tuple(pair) for pair in (given.items() if isinstance(given, dict) else given)]


def headers_of(answer):
    """As `answer_headers`, without those set to null; `{date+20}` is an HTTP date 20 s from now."""
    found = []
    for name, value in answer_headers(answer):
        if value is None:
            continue
        if isinstance(value, str) and value.startswith("{date+"):
            value = formatdate(time.time() + int(value[6:-1]), usegmt=True)
        found.append((name, value))
    return found


def head(status, headers):
    reason = "OK" if status == 200 else "X"
    return "".join(
        [f"HTTP/1.1 {status} {reason}\r\n", *(f"{name}: {value}\r\n" for name, value in headers), "\r\n"]
    ).encode()


def sized(status, headers, body, head_only=False):
    return head(status, [*headers, ("content-length", len(body))]) + (b"" if head_only else body)
