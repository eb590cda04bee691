"""An OpenTelemetry collector that decodes what it is sent, by the numbers of opentelemetry-proto's fields and by nothing of ours."""

import struct

from tests.support.receiver import Receiver


def fields(message):
    """(number, value) of a message's fields, as protobuf's wire format has them."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        number, kind = key >> 3, key & 7
        if kind == 0:
            yield number, varint()
        elif kind == 2:
            size = varint()
            assert at + size <= len(message)
            yield number, message[at : at + size]
            at += size
        else:
            size = {1: 8, 5: 4}[kind]
            yield number, message[at : at + size]
            at += size


def one(message, number, default=None):
    found = [value for name, value in fields(message) if name == number]
    assert len(found) <= 1
    return found[0] if found else default


def each(message, number):
    return [value for name, value in fields(message) if name == number]


def any_value(message):
    ((number, value),) = fields(message)
    if number == 1:
        return value.decode()
    if number == 2:
        return bool(value)
    if number == 3:
        return value - (1 << 64) if value >> 63 else value
    if number == 4:
        return struct.unpack("<d", value)[0]
    assert number == 5
    return [any_value(item) for item in each(value, 1)]


def attributes(message, number):
    pairs = [(one(pair, 1).decode(), any_value(one(pair, 2))) for pair in each(message, number)]
    assert len(dict(pairs)) == len(pairs), "a key is there once"
    return dict(pairs)


class Span:
    def __init__(self, message):
        self.trace_id, self.span_id = one(message, 1), one(message, 2)
        self.parent_id = one(message, 4, b"")
        self.name = one(message, 5).decode()
        self.kind = {2: "server", 3: "client"}[one(message, 6)]
        self.began_ns, self.ended_ns = (struct.unpack("<Q", one(message, at))[0] for at in (7, 8))
        self.attributes = attributes(message, 9)
        self.failed = one(one(message, 15, b""), 3, 0) == 2
        self.flags = struct.unpack("<I", one(message, 16))[0]


def decode(body):
    """(resource's attributes, spans) of an ExportTraceServiceRequest."""
    (of_resource,) = each(body, 1)
    (of_scope,) = each(of_resource, 2)
    assert one(one(of_scope, 1), 1) == b"tokenworks.gateway"
    return attributes(one(of_resource, 1), 1), [Span(message) for message in each(of_scope, 2)]


class Collector(Receiver):
    """`Receiver` as a collector: all spans that it took, in their order."""

    def spans(self):
        found = []
        for path, headers, body in list(self.got):
            assert path == "/v1/traces"
            assert {name.lower(): v for name, v in headers.items()}[
                "content-type"
            ] == "application/x-protobuf"
            found += decode(body)[1]
        return found
