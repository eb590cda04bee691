"""No route forgets to charge: every route of the data plane, at every end that a request has, leaves the record and the charge that the
table says, or none where nothing was produced for it. A new route is in no class, and a new class has no row: both are red.
"""

import json

import pytest

from tests.gateway.protocol import streams
from tests.gateway.protocol.streams import sse
from tests.gateway.request.support import Worker, deployment
from tests.gateway.request.test_compacting import OPENAI, gives_keys
from tests.gateway.request.test_compacting import begins as compacts
from tests.gateway.request.test_replay import asked
from tests.support.builds import on_sources
from tokenworks.catalog import Counts, Service
from tokenworks.charging import REPLAY_KEEP, REPLAY_LOOKUP, ReplayFound
from tokenworks.factory import COUNT_PATHS, PROTOCOL_PATHS
from tokenworks.gateway.http.paths import ENDPOINTS, KEY_PATHS
from tokenworks.gateway.protocol.compaction import COMPACT_PATH
from tokenworks.gateway.request.ticking import cut, time_out

pytestmark = on_sources

INPUT, OUTPUT = 9, 4
EVENTS, JSON = b"text/event-stream", b"application/json"
WORDS = ("one ", "two ", "three ", "four ")
CHAT = streams.used(INPUT, OUTPUT)
ITEMS = {"input_tokens": INPUT, "output_tokens": OUTPUT}
RESPONSE = streams.response("completed", usage=ITEMS | {"total_tokens": INPUT + OUTPUT})


def told(protocol, stream):
    asks = {"model": "m", "stream": stream} if protocol != "embeddings" else {"model": "m"}
    if protocol in {"chat", "messages"}:
        asks |= {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 900}
    elif protocol == "completions":
        asks |= {"prompt": "hi", "max_tokens": 900}
    else:
        asks |= {"input": "hi"} | ({"max_output_tokens": 900} if protocol == "responses" else {})
    return json.dumps(asks).encode()


def spoken(protocol):
    """(events with content, the events that end the stream) of a protocol."""
    if protocol == "chat":
        return [streams.chunk({"content": word}) for word in WORDS], [streams.chunk(finish="stop"), streams.usage_chunk(CHAT), "[DONE]"]  # fmt: skip
    if protocol == "completions":
        texts = [{"id": "c1", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": word, "finish_reason": None}]} for word in WORDS]  # fmt: skip
        last = texts[0] | {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": CHAT}
        return texts, [last, "[DONE]"]
    if protocol == "messages":
        *first, stop = streams.text_block(*WORDS)
        return [streams.message_start({"input_tokens": INPUT, "output_tokens": 1}), *first], [stop, streams.message_delta(ITEMS), streams.STOP]  # fmt: skip
    pieces = [streams.piece(word) for word in WORDS]
    return [{"type": "response.created", "response": streams.response("in_progress")}, *pieces], [
        {"type": "response.completed", "response": RESPONSE}
    ]


def whole(protocol):
    text = "".join(WORDS)
    if protocol == "chat":
        return {"id": "c1", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": CHAT}  # fmt: skip
    if protocol == "completions":
        return {"id": "c1", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": "stop"}], "usage": CHAT}  # fmt: skip
    if protocol == "embeddings":
        return {"object": "list", "model": "m", "data": [{"index": 0, "embedding": [0.1]}], "usage": {"prompt_tokens": INPUT, "total_tokens": INPUT}}  # fmt: skip
    if protocol == "messages":
        return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn", "content": [{"type": "text", "text": text}], "usage": ITEMS}  # fmt: skip
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return RESPONSE | {"output": [said]}


class Case:
    """One request at its deployment."""

    def __init__(self, protocol, *, stream, headers=b"", **settings):
        self.protocol, self.stream = protocol, stream
        self.worker = worker = Worker(deployment("d1", protocols=(protocol,)), **settings)
        worker.user.service = Service(cache_percent=50)
        self.exchange = worker.begins(protocol=protocol, body=told(protocol, stream), headers=headers)

    def sent(self):
        """At the deployment. Before anything is sent, the recorder has the attempt, so that a worker that is killed leaves it open and
        the recorder records what its last progress says (`worker_lost`)."""
        exchange = self.exchange
        assert exchange.usage_id in self.worker.recorder.began and not self.worker.recorder.records
        return self.worker.upstream()

    def speaks(self, *, ends=False):
        upstream, (content, end) = self.sent(), ([], [])
        if self.stream:
            content, end = spoken(self.protocol)
            upstream.answers(sse(*content), kind=EVENTS)
            if ends:
                upstream.user.upstream_data(upstream, sse(*end))
        elif ends:
            upstream.answers(json.dumps(whole(self.protocol)).encode(), kind=JSON)
        if ends:
            upstream.ends()
        return upstream

    def recorded(self):
        recorder = self.worker.recorder
        if recorder.records:
            recorder.durable()
        assert self.exchange.ended and not self.worker.held and self.worker.shared.memory.used == 0
        return [record for record, _ in recorder.records]


class CompactionCase(Case):
    """A request to the route for compactions: of a vendor that compacts, or of a model that is asked for a summary."""

    def __init__(self, place):
        self.protocol, self.stream = "responses", False
        self.worker = Worker(place)
        self.exchange = compacts(self.worker, route=True)
        if place is not OPENAI:
            gives_keys(self.worker)


def completes(case):
    case.speaks(ends=True)


def is_left(case):
    case.speaks()
    case.exchange.client_gone()
    if case.stream:
        # It is cut: what the upstream made before it noticed is read.
        case.worker.upstream().ends()
    else:
        # It is read to its end, and charged whole.
        case.speaks(ends=True)


def is_cut_by_the_upstream(case):
    upstream = case.speaks()
    upstream.user.upstream_failed(upstream, "closed")


def fails_after_text(case):
    upstream = case.speaks()
    error = {"type": "error", "error": {"type": "server_error", "message": "no", "code": 500}}
    if case.stream:
        upstream.user.upstream_data(upstream, sse(error))
    else:
        upstream.answers(json.dumps(error).encode(), status=500)
        upstream.ends()


def takes_too_long(case):
    case.speaks()
    time_out(case.exchange)


def loses_its_worker(case):
    case.speaks()
    cut(case.exchange)


def is_silent(case):
    case.sent().user.upstream_failed(case.worker.upstream(), "closed")


# What each leaves of a stream, and of a whole answer: the state of its record; None: nothing was produced, or nothing that the upstream
# reported, so that there is no charge.
ENDS = {
    completes: ("complete", "complete"),
    is_left: ("interrupted", "complete"),
    is_cut_by_the_upstream: ("interrupted", None),
    fails_after_text: ("interrupted", None),
    takes_too_long: ("interrupted", None),
    loses_its_worker: ("interrupted", None),
    is_silent: (None, None),
}
METERED = dict(PROTOCOL_PATHS)
STREAMED = [protocol for protocol in METERED if protocol != "embeddings"]
COMPACTING = {"summary": deployment("d1", protocols=("responses",)), "vendor": OPENAI}
FREE = {"/models", *[path.removeprefix("/v1") for path in COUNT_PATHS.values()]}


def test_every_route_is_charged_or_said_to_be_free():
    charged = {path.removeprefix("/v1") for path in (*METERED.values(), COMPACT_PATH)}
    assert charged | FREE == set(ENDPOINTS)
    # They read: the control plane answers them. Stored responses are read by `stored_routes`, which has no part that records.
    assert KEY_PATHS == {"/v1/key", "/v1/usage"}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("protocol", METERED)
def test_every_route_at_every_end_leaves_the_record_and_the_charge_that_it_should(protocol, end):
    for stream in (True, False) if protocol in STREAMED else (False,):
        leaves_its_record(Case(protocol, stream=stream), end)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("place", COMPACTING)
def test_a_compaction_at_every_end_leaves_the_record_and_the_charge_that_it_should(place, end):
    leaves_its_record(CompactionCase(COMPACTING[place]), end)


def leaves_its_record(case, end):
    end(case)
    state = ENDS[end][not case.stream]
    records = case.recorded()
    drawn = [sum(part.amount for part in record.parts) for record in records]
    assert [record.state for record in records if sum(record.c)] == ([state] if state else []), case.stream
    assert [amount > 0 for amount in drawn if amount] == ([True] if state else []), case.stream
    if state == "complete":
        (record,) = records
        assert (record.c.input_tokens, record.counted_by) == (INPUT, "provider")
        assert drawn == [1000 * sum(record.c)]


@pytest.mark.parametrize("protocol", METERED)
def test_every_route_charges_a_stored_answer_once_and_a_replayed_one_by_its_share(protocol):
    for stream in (True, False) if protocol in STREAMED else (False,):
        case = Case(protocol, stream=stream, headers=b"x-tokenworks-cache: on\r\n")
        asked(case.worker, REPLAY_LOOKUP)[0][1](ReplayFound("none"))
        case.speaks(ends=True)
        # It is stored before its record, and a record follows whether the database took it or not.
        ((kept, answered),) = asked(case.worker, REPLAY_KEEP)
        answered(None)
        (record,) = case.recorded()
        assert record.state == "complete" and sum(part.amount for part in record.parts) == 1000 * sum(
            record.c
        )
        again = Case(protocol, stream=stream, headers=b"x-tokenworks-cache: on\r\n")
        found = ReplayFound("found", record.usage_id, record.request_id, "provider", record.c, 1, kept.media_type, kept.answer)  # fmt: skip
        asked(again.worker, REPLAY_LOOKUP)[0][1](found)
        (replay,) = again.recorded()
        half = Counts(*[count // 2 for count in record.c])
        assert (replay.state, replay.c, replay.replay_of) == ("replayed", half, record.usage_id)
        assert sum(part.amount for part in replay.parts) == 1000 * sum(half) and not again.worker.pools


@pytest.mark.parametrize("protocol", COUNT_PATHS)
def test_a_route_that_only_counts_is_never_charged(protocol):
    worker = Worker(deployment("d1", protocols=(protocol,)))
    exchange = worker.begins(protocol=protocol, body=told(protocol, False), free=True)
    worker.upstream().answers(b'{"input_tokens":9}')
    worker.upstream().ends()
    assert exchange.ended and not worker.recorder.records and not worker.held
