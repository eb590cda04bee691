"""A vendor for the SDKs' own tests: it answers as it is told to, in the protocol in which it is asked."""

import json
from dataclasses import dataclass

from tests.edge.honest import send
from tests.edge.stub import head
from tests.edge.vendor import Vendor
from tokenworks.gateway.translate.codec import Target
from tokenworks.gateway.translate.translation import Translation

TOLD = "/told"


@dataclass
class ToldVendor(Vendor):
    """`told`: the answer that a test's mock gives, {protocol, type, text}; None: the vendor's own. Asked in another protocol, it gives
    that answer in this one, as a vendor of this protocol does that says the same.
    """

    told: dict | None = None

    def control(self, path, body, writer):
        if path != TOLD:
            return False
        self.told = body if body["protocol"] else None
        send(writer, {})
        return True

    def answer(self, path, protocol, body, writer):
        if self.told is None or path.endswith("/count_tokens"):
            super().answer(path, protocol, body, writer)
            return
        data = self.told["text"].encode()
        stream = "event-stream" in self.told["type"]
        if self.told["protocol"] != protocol:
            data = said_in(protocol, self.told["protocol"], body, data, stream)
        writer.write(head(200, [("content-type", self.told["type"]), ("content-length", len(data))]) + data)


def said_in(protocol, of, body, data, stream):
    """An answer of the protocol `of` in `protocol`, to the request `body` in that."""
    asked = json.dumps(body).encode()
    made = Translation(protocol, of, asked, Target())
    naming = made.naming("id-1", body["model"], 1_790_000_000)
    if not stream:
        return made.write_answer(made.read_answer(data), naming)
    translator = made.translator(naming)
    return translator.feed(whole_events(data)) + translator.finish(b"")


def whole_events(data):
    """Fixtures have ends of lines of any kind."""
    text = data.decode().replace("\r\n", "\n").strip("\n")
    return text.encode() + b"\n\n"
