"""The log of content in the worker: only of a key that has it on, bounded, and its memory given back."""

import json
from types import SimpleNamespace

import pytest

from tests.gateway.protocol.streams import chat_stream, sse
from tests.gateway.request.support import WHOLE, Worker
from tests.gateway.request.test_compacting import gives_keys
from tests.gateway.request.test_storing import begins, found, questions, storing
from tests.gateway.request.test_traced import begin, ends
from tokenworks.charging import CONTENT_LOG, REPLAY_LOOKUP
from tokenworks.gateway.request.content_logging import log_content
from tokenworks.gateway.request.running import RunningRequests
from tokenworks.gateway.request_log import RequestLog
from tokenworks.gateway.series import Series


def make(*, on=True, **settings):
    worker = Worker(**({"content_log_days": 7, "content_log_entry_bytes_max": 4096} | settings))
    pools = type("Pools", (), {"of": staticmethod(worker.pool)})()
    worker.running = RunningRequests(worker.shared, pools, RequestLog(0, None, lambda: 0), Series())
    worker.user.logs_content = on
    return worker


def entries(worker):
    return [(told, answered) for kind, told, answered in worker.recorder.requests if kind is CONTENT_LOG]


def streamed(worker, data):
    upstream = worker.upstream()
    upstream.answers(data, kind=b"text/event-stream")
    upstream.user.upstream_end(upstream)
    worker.recorder.durable()


def test_a_whole_answer_is_logged_with_its_request():
    worker = make()
    exchange = begin(worker)
    ends(worker)
    ((entry, answered),) = entries(worker)
    assert entry.request == exchange.body and entry.request_bytes == len(exchange.body)
    assert b"hello" in entry.answer and entry.answer_bytes == len(entry.answer)
    assert (entry.account_id, entry.key_id, entry.member_id) == ("acc", "key", "member")
    assert (entry.request_id, entry.model, entry.outcome) == (exchange.request_id, "m", "complete")
    assert worker.shared.memory.used == len(entry.request) + len(entry.answer)
    answered(True)
    assert worker.shared.memory.used == 0 and worker.shared.stats.c["content_logged"] == 1


@pytest.mark.parametrize("settings", [{"on": False}, {"content_log_days": 0}])
def test_nothing_is_logged_unless_the_key_and_the_host_have_it_on(settings):
    worker = make(**settings)
    exchange = begin(worker, stream=True)
    streamed(worker, sse(*chat_stream()))
    assert exchange.ended and entries(worker) == [] and worker.shared.memory.used == 0
    assert exchange.copy is None


def test_a_stream_is_copied_and_a_long_one_cut():
    worker = make(content_log_entry_bytes_max=1024)
    begin(worker, stream=True)
    streamed(worker, sse(*chat_stream(("words ",) * 100)))
    ((entry, answered),) = entries(worker)
    assert len(entry.request) + len(entry.answer) == 1024 and entry.answer_bytes > 1024
    assert entry.answer.startswith(b"data: ")
    answered(None)
    assert worker.shared.memory.used == 0 and worker.shared.stats.c["content_not_logged"] == 1


def test_a_refused_request_is_not_logged():
    worker = make()
    begin(worker, model="none such")
    assert entries(worker) == [] and worker.shared.memory.used == 0


def test_without_memory_the_entry_is_left_out_and_the_answer_given():
    worker = make()
    exchange = begin(worker)
    worker.shared.memory.take("other", (1 << 24) - worker.shared.memory.used - 10)
    ends(worker)
    assert exchange.ended and len(worker.recorder.records) == 1
    assert entries(worker) == [] and worker.shared.stats.c["content_not_logged"] == 1


@pytest.mark.parametrize("on", [True, False])
def test_a_log_that_is_turned_on_or_off_meanwhile_concerns_later_requests_alone(on):
    worker = make(on=on)
    begin(worker, stream=True)
    upstream = worker.upstream()
    worker.user.logs_content = not on
    upstream.answers(sse(*chat_stream()), kind=b"text/event-stream")
    upstream.user.upstream_end(upstream)
    worker.recorder.durable()
    assert len(entries(worker)) == on, "the recorder asks whether the log is still on"
    for _, answered in entries(worker):
        answered(False)
    assert worker.shared.memory.used == 0


def test_an_answer_that_its_client_did_not_get_is_not_logged():
    worker = make(response_bytes_max=60)
    begin(worker)
    upstream = worker.upstream()
    upstream.answers(json.dumps(WHOLE | {"model": "the-vendors-own-name"}).encode()[:50])
    upstream.user.upstream_data(upstream, b"x" * 50)
    worker.recorder.durable()
    ((entry, _),) = entries(worker)
    assert (entry.outcome, entry.answer, entry.answer_bytes) == ("interrupted", b"", 0)


def test_the_entry_of_a_continued_response_has_what_its_client_sent():
    """Not the conversation before it, which would leave no room for the new words."""
    worker = storing()
    worker.user.logs_content = True
    exchange = begins(worker, previous_response_id="resp_1")
    own = exchange.body
    ((_, answered),) = questions(worker, REPLAY_LOOKUP)
    answered(found())
    assert exchange.body != own
    exchange.record = SimpleNamespace(
        account_id="acc", key_id="key", member_id="member", model="m", state="complete"
    )
    log_content(worker.parts, exchange, None)
    ((entry, _),) = questions(worker, CONTENT_LOG)
    assert (entry.request, entry.request_bytes) == (own, len(own))


def test_the_entry_of_a_compacted_conversation_has_what_its_client_sent_too():
    """Its body is given another one twice: for the store, and for the compaction."""
    worker = storing()
    worker.user.logs_content = True
    own = b'{"model":"m","input":[{"type":"compaction_trigger"}],"previous_response_id":"resp_1"}'
    exchange = worker.begins(protocol="responses", body=own)
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    gives_keys(worker)
    assert exchange.own_body == own and exchange.compaction is not None
