"""Which request is traced and under which ids, and that a worker never waits for the exporter."""

import os
import socket

import pytest

from tokenworks.gateway.span_records import AttemptSpan, RequestSpans
from tokenworks.gateway.tracing import (
    DATAGRAM_BYTES_MAX,
    KEPT_BYTES_MAX,
    RequestTrace,
    Tracer,
    parse_traceparent,
    read_datagram,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()


def spans(number=0, size=1):
    attempt = AttemptSpan(b"s" * 8, 1, "d", "generic", "m" * size, "chat", "h", 80, counts=(1, 2))
    return RequestSpans(b"t" * 16, b"r" * 8, b"", f"{number}", "chat", 1, 2, "m", 200, "", "", [attempt])


@pytest.fixture
def exporter(tmp_path):
    path = tmp_path / "spans.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.setblocking(False)
        yield listener, str(path)


def received(listener):
    found = []
    while True:
        try:
            data = listener.recv(65_536)
        except BlockingIOError:
            return found
        assert len(data) <= DATAGRAM_BYTES_MAX
        found += read_datagram(data)


@pytest.mark.parametrize(
    "value", [PARENT, PARENT[:-2] + b"00", b"01" + PARENT[2:] + b"-more", b"cc" + PARENT[2:]]
)
def test_a_valid_parent_is_continued_whatever_its_flag(value):
    assert parse_traceparent(value) == (bytes.fromhex(TRACE), bytes.fromhex(SPAN))


@pytest.mark.parametrize(
    "value",
    [
        b"", b"00-1-2-01", b"ff" + PARENT[2:], PARENT + b"-more", PARENT.upper(), PARENT + b", " + PARENT, PARENT[:-1],
        f"00-{'0' * 32}-{SPAN}-01".encode(), f"00-{TRACE}-{'0' * 16}-01".encode(), PARENT + b"\n", b" " + PARENT,
    ],
)  # fmt: skip
def test_an_invalid_parent_begins_a_trace_of_its_own(value):
    assert parse_traceparent(value) is None
    trace = Tracer(1_000_000, "").begin(value, 5)
    assert trace.parent_id == b"" and trace.trace_id != bytes.fromhex(TRACE) and trace.began_ms == 5


def test_the_share_is_taken_by_the_trace_id_so_that_all_hosts_decide_alike():
    half = Tracer(500_000, "")
    ids = [os.urandom(16).hex() for _ in range(2000)]
    chosen = [half.begin(f"00-{one}-{SPAN}-00".encode(), 0) is not None for one in ids]
    assert 800 < sum(chosen) < 1200
    assert chosen == [Tracer(500_000, "").begin(f"00-{one}-{SPAN}-01".encode(), 0) is not None for one in ids]
    low, high = f"{'f' * 18}{'0' * 14}", f"{'0' * 18}{'f' * 14}"
    for share_ppm, expected in ((0, (False, False)), (1, (True, False)), (1_000_000, (True, True))):
        tracer = Tracer(share_ppm, "")
        assert (
            tuple(tracer.begin(f"00-{one}-{SPAN}-01".encode(), 0) is not None for one in (low, high))
            == expected
        )


def test_an_upstream_gets_the_attempts_span_as_its_parent():
    head = (
        b"POST /x HTTP/1.1\r\nhost: h\r\ntraceparent: "
        + PARENT
        + b"\r\ntracestate: a=b\r\naccept-encoding: identity\r\ncontent-length: "
    )
    trace = RequestTrace(bytes.fromhex(TRACE), bytes.fromhex(SPAN), 0)
    assert trace.span_id.hex() in trace.head(head).decode()
    trace.attempts.append(spans().attempts[0])
    line = f"traceparent: 00-{TRACE}-{(b's' * 8).hex()}-01\r\n".encode()
    assert trace.head(head) == (
        b"POST /x HTTP/1.1\r\nhost: h\r\ntracestate: a=b\r\naccept-encoding: identity\r\n"
        + line
        + b"content-length: "
    )
    own = RequestTrace(b"o" * 16, b"", 0).head(head)
    assert own.count(b"traceparent") == 1 and TRACE.encode() not in own
    assert b"tracestate" not in own, "it belongs to the parent that is not continued"


def test_spans_arrive_in_datagrams_that_fit(exporter):
    listener, path = exporter
    tracer = Tracer(1_000_000, path)
    for number in range(700):
        tracer.keep(spans(number, 200))
    found = received(listener)
    while len(found) < 700:
        tracer.flush()
        found += received(listener)
    assert [one.request_id for one in found] == [str(number) for number in range(700)]
    assert (tracer.sent, tracer.dropped) == (700, 0)
    tracer.close()


def test_without_an_exporter_a_worker_keeps_up_to_a_limit_and_counts_what_it_drops(tmp_path):
    tracer = Tracer(1_000_000, str(tmp_path / "nobody.sock"))
    count = KEPT_BYTES_MAX // 10_000 + 50
    for number in range(count):
        tracer.keep(spans(number, 10_000))
    tracer.flush()
    assert tracer.sent == 0 and 50 <= tracer.dropped < 100
    tracer.keep(spans(0, DATAGRAM_BYTES_MAX))
    dropped = tracer.dropped
    tracer.close()
    assert tracer.dropped == count + 1 > dropped, "each request is sent or counted as dropped"


def test_an_exporter_that_does_not_read_stops_nothing_and_loses_nothing_below_the_limit(exporter):
    listener, path = exporter
    tracer = Tracer(1_000_000, path)
    for number in range(300):
        tracer.keep(spans(number, 10_000))
    assert tracer.sent < 300, "the kernel's buffer is full"
    found = received(listener)
    while len(found) < 300:
        tracer.flush()
        found += received(listener)
    assert [one.request_id for one in found] == [str(number) for number in range(300)] and tracer.dropped == 0
    tracer.close()


def test_a_datagram_of_others_is_refused():
    for data in (b"\0\0\0\1", b"\0\0\0\1x", b"\0\0\0\2\x91\xc0", b"abc"):
        with pytest.raises(ValueError):
            read_datagram(data)
    assert read_datagram(b"") == []
