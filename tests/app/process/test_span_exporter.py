"""From the worker's datagram to the collector: what it is away for comes later, what it refuses is counted, nothing grows."""

import socket

import pytest

from tests.support.collector import Collector
from tests.support.server import until
from tokenworks.app.process import span_exporter
from tokenworks.app.process.span_exporter import SOCKET_FILE, SpanExporter, read_headers, traces_url
from tokenworks.app.settings import load_settings
from tokenworks.gateway import RequestSpans, Tracer


def spans(number):
    return RequestSpans(b"t" * 16, b"r" * 8, b"", str(number), "chat", 1, 2, "m", 200, "", "", [])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("BATCH_S", "PAUSE_S"):
        monkeypatch.setattr(span_exporter, name, 0.02)


@pytest.fixture(scope="module")
def listening():
    with Collector() as collector:
        yield collector


@pytest.fixture
def collector(listening):
    listening.got.clear()
    listening.answers.clear()
    return listening


def make(tmp_path, url):
    settings = load_settings({"data_dir": str(tmp_path), "otlp_endpoint": url}, {}).settings
    settings.run_dir.mkdir(exist_ok=True)
    settings.secrets.mkdir(exist_ok=True)
    return SpanExporter(settings, "host-1"), Tracer(1_000_000, str(settings.run_dir / SOCKET_FILE))


def told(collector):
    return [span.attributes["tokenworks.request_id"] for span in collector.spans()]


def hand_over(tracer, *numbers):
    for number in numbers:
        tracer.keep(spans(number))
    tracer.flush()
    assert tracer.dropped == 0


def test_spans_go_to_the_collector_with_the_hosts_headers(tmp_path, collector):
    exporter, tracer = make(tmp_path, collector.url)
    (tmp_path / "secrets/otlp-headers").write_text(
        "x-key: k 1\nno header\n# a: b\nbad name: x\nX-Other:  y\n"
    )
    exporter.start()
    hand_over(tracer, 1, 2)
    until(lambda: len(collector.spans()) == 2, what="the spans")
    assert told(collector) == ["1", "2"]
    headers = {name.lower(): value for name, value in collector.got[0][1].items()}
    assert (headers["x-key"], headers["x-other"]) == ("k 1", "y") and "bad name" not in headers
    hand_over(tracer, 3)
    exporter.stop()
    assert told(collector) == ["1", "2", "3"], "the last ones, too"
    assert (exporter.sent, exporter.dropped) == (3, 0)


def test_a_busy_collector_gets_them_again_and_one_that_refuses_does_not(tmp_path, collector):
    exporter, tracer = make(tmp_path, collector.url)
    collector.answers += [(503, {}, b""), (429, {}, b""), (200, {}, b""), (400, {}, b"")]
    exporter.start()
    hand_over(tracer, 1)
    until(lambda: exporter.sent == 1, what="the collector to take them")
    assert told(collector) == ["1"] * 3
    hand_over(tracer, 2)
    until(lambda: exporter.dropped == 1, what="the refusal")
    hand_over(tracer, 3)
    until(lambda: exporter.sent == 2, what="the next")
    assert told(collector) == ["1"] * 3 + ["2", "3"]
    exporter.stop()


def test_a_collector_that_is_away_costs_a_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(span_exporter, "KEPT_REQUESTS_MAX", 5)
    exporter, tracer = make(tmp_path, "http://127.0.0.1:1")
    exporter.start()
    hand_over(tracer, *range(20))
    until(lambda: exporter.dropped == 15, what="the oldest to make room")
    exporter.stop()
    assert (exporter.sent, exporter.dropped) == (0, 20), "each is counted"


def test_what_is_no_datagram_of_spans_is_counted(tmp_path, collector):
    exporter, tracer = make(tmp_path, collector.url)
    exporter.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"\0\0\0\x01x", str(tmp_path / "run" / SOCKET_FILE))
    hand_over(tracer, 1)
    until(lambda: exporter.sent == 1, what="the next")
    assert exporter.dropped == 1
    exporter.stop()


def test_a_successor_takes_the_socket(tmp_path, collector):
    before, tracer = make(tmp_path, collector.url)
    hand_over(tracer, 1)
    after, tracer = make(tmp_path, collector.url)
    hand_over(tracer, 2)
    after.start()
    before.start()
    before.stop()
    after.stop()
    assert sorted(told(collector)) == ["1", "2"]
    assert (tmp_path / "run" / SOCKET_FILE).stat().st_mode & 0o777 == 0o600


def test_the_address_is_the_collectors_base_or_the_place_itself():
    assert traces_url("http://c:4318") == traces_url("http://c:4318/") == "http://c:4318/v1/traces"
    assert traces_url("https://c/otel/v1/traces?a=b") == "https://c/otel/v1/traces?a=b"
    assert traces_url("https://c/api/public/otel") == "https://c/api/public/otel/v1/traces"


def test_a_file_of_headers_that_cannot_be_read_is_none(tmp_path):
    assert read_headers(tmp_path / "none") == {}
    (tmp_path / "bad").write_bytes(b"\xff: x")
    assert read_headers(tmp_path / "bad") == {}
