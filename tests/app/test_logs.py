"""The server's log: each event has a rate, by what it is about, and what was left out is said."""

import io
import json
import logging

import pytest
import structlog

from tokenworks.app import logs


@pytest.fixture
def written(monkeypatch):
    """Reads the lines that were written so far; civil and monotonic time stand still but for `at`."""
    stream, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(logs.sys, "stderr", stream)
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers = []
    logs.configure_logs("info", "json", "worker-0")

    def read(at=None):
        if at is not None:
            now[0] += at
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    yield read
    root.handlers = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_thousand_lines_of_one_deployment_are_some_and_a_sum(written):
    log = structlog.get_logger()
    for number in range(1000):
        log.warning("placement.ejected", deployment="bad", number=number)
    log.warning("placement.ejected", deployment="good")
    log.error("another.event", deployment="bad")
    lines = written()
    assert [line["deployment"] for line in lines if line["event"] == "placement.ejected"] == [
        "bad"
    ] * logs.LINES_BURST + ["good"]
    assert lines[-1]["event"] == "another.event"
    logs.log_suppressed()
    assert written() == lines, "not yet"
    written(at=logs.SUMMARY_S)
    logs.log_suppressed()
    assert written()[-1].items() >= {"event": logs.SUPPRESSED, "of": "placement.ejected", "about": "bad", "lines": 1000 - logs.LINES_BURST}.items()  # fmt: skip
    log.warning("placement.ejected", deployment="bad")
    assert written()[-1]["deployment"] == "bad", "and some time later it says so again"


def test_a_defects_traceback_has_a_rate_too(written):
    log = structlog.get_logger()
    for _ in range(200):
        try:
            raise ValueError("defect")
        except ValueError:
            log.exception("gateway.tick_failed", request_id="x")
    assert len(written()) == logs.LINES_BURST
    assert "Traceback" in written()[0]["exception"]


def test_what_libraries_log_has_one_as_well(written):
    for number in range(200):
        logging.getLogger("asyncio").warning("socket.send() raised exception %s", number)
    assert len(written()) == logs.LINES_BURST


def test_keys_and_phone_numbers_are_still_cut_out(written):
    structlog.get_logger().error("x", deployment="d", error="twk_dev_0123456789abcdef of +8613800000001")
    assert written()[0]["error"] == "twk_… of +861****0001"
    structlog.get_logger().error(
        "x", deployment="d", error="twf_" + "aZ9_-" * 8 + " and /ops?link=twl_" + "x" * 43
    )
    assert written()[1]["error"] == "twf_… and /ops?link=twl_…"
