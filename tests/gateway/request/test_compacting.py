"""A request that asks for a compaction, or has one: what is sent in its place, by whom it is answered, and what it may not read."""

import json
import uuid

import pytest

from tests.gateway.request.support import Worker, deployment
from tests.gateway.request.test_storing import found, questions, storing
from tokenworks.catalog import Service
from tokenworks.charging import CONTENT_KEYS, REPLAY_LOOKUP, ContentKeys
from tokenworks.factory import COMPACT
from tokenworks.gateway.protocol.compaction import INSTRUCTION, PREFACE, triggered, written
from tokenworks.trust import PersonKey, new_content_key, open_content_key, seal_content

MEMBER = uuid.UUID(int=7)
PERSON = PersonKey(uuid.UUID(int=8), b"p" * 32)
TRIGGER = {"type": "compaction_trigger"}
USER = {"role": "user", "content": "hi"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "ho"}]}
OPENAI = deployment("d1", protocols=("responses",), base_url="https://api.openai.com/v1", profile="openai")


def worker_of(*deployments, **settings):
    return Worker(*(deployments or (deployment("d1", protocols=("responses",)),)), **settings)


def begins(worker, *, items=(USER, SAID, TRIGGER), route=False, free=False, headers=b"", **fields):
    body = json.dumps({"model": "m", "input": list(items), "max_output_tokens": 50} | fields).encode()
    exchange = worker.arrives(
        protocol="responses", body=triggered(body) if route else body, free=free, headers=headers
    )
    if route:
        exchange.head.path = "/v1/responses/compact"
    exchange.identified(worker.user)
    return exchange


def gives_keys(worker):
    """What the recorder answers."""
    ((asked, answered),) = questions(worker, CONTENT_KEYS)
    opened = [open_content_key(PERSON, MEMBER, sealed) or b"" for sealed in asked.sealed]
    answered(ContentKeys(opened, *(new_content_key(PERSON, MEMBER) if asked.makes else (b"", b""))))
    return asked


def item(summary=b"what was said", member=MEMBER):
    key, sealed = new_content_key(PERSON, member)
    return {
        "type": "compaction",
        "id": "cmp_1",
        "encrypted_content": written(sealed + seal_content(key, summary)),
    }


def sent(worker):
    return worker.upstream().body


@pytest.mark.parametrize("route", [True, False])
def test_a_deployment_without_it_is_asked_for_a_summary_which_is_held_like_any_request(route):
    worker = worker_of()
    exchange = begins(worker, route=route, stream=not route)
    assert not worker.pools and not worker.held
    asked = gives_keys(worker)
    assert (asked.account_id, asked.member_id, asked.sealed, asked.makes) == ("acc", "member", [], True)
    assert worker.held
    body = sent(worker)
    assert body["input"][:2] == [USER, SAID] and body["input"][2]["content"][0]["text"] == INSTRUCTION
    assert not body.get("stream") and len(body["input"]) == 3
    compaction = exchange.compaction
    assert (compaction.relayed, compaction.by_route, compaction.streams) == (False, route, not route)


def test_a_vendor_that_compacts_gets_the_request_by_its_own_route():
    worker = worker_of(OPENAI)
    exchange = begins(worker, route=True, tools=[], prompt_cache_key="k")
    assert not questions(worker, CONTENT_KEYS), "nothing is sealed here"
    assert b"POST /v1/responses/compact HTTP/1.1" in worker.upstream().head
    assert sent(worker) == {"model": "m", "input": [USER, SAID], "prompt_cache_key": "k"}
    assert exchange.compaction.relayed and "tools" in exchange.parsed.dropped
    assert worker.held, "what it may cost is held all the same"


def test_a_vendor_that_compacts_gets_a_trigger_as_it_came():
    worker = worker_of(OPENAI)
    begins(worker, stream=True)
    assert b"POST /v1/responses HTTP/1.1" in worker.upstream().head
    assert sent(worker)["input"] == [USER, SAID, TRIGGER] and sent(worker)["stream"] is True


@pytest.mark.parametrize("stream", [True, False])
def test_a_vendors_compaction_is_held_whole_whatever_maximum_the_client_names(stream):
    """A vendor may write more than the maximum, and its stream shows nothing by which a hold could be extended."""
    worker = worker_of(OPENAI)
    exchange = begins(worker, stream=stream, max_output_tokens=16)
    assert exchange.held_output == 1000 and not exchange.cuttable
    assert sent(worker)["max_output_tokens"] == 1000 and "max_output_tokens" in exchange.parsed.dropped
    without = worker_of(OPENAI)
    exchange = begins(without, stream=stream, max_output_tokens=None)
    assert exchange.held_output == 1000 and not exchange.cuttable
    poor = worker_of(OPENAI, tokens=500)
    begins(poor, stream=stream, max_output_tokens=16)
    assert not poor.pools and poor.recorder.asked[0].need.output_tokens == 1000


def test_the_tags_of_a_request_stay_where_its_vendors_route_has_no_field_for_them():
    worker = worker_of(OPENAI)
    exchange = begins(worker, route=True, metadata={"team": "a"}, headers=b"x-tokenworks-tag-job: b\r\n")
    assert exchange.tags == {"team": "a", "job": "b"} and "metadata" not in sent(worker)


def test_of_several_deployments_one_that_compacts_is_taken():
    worker = worker_of(deployment("d0", protocols=("responses", "chat")), OPENAI)
    exchange = begins(worker, route=True)
    assert [view.name for view in exchange.views] == ["d1"] and exchange.native == 1
    assert COMPACT in worker.view("d1").paths and COMPACT not in worker.view("d0").paths
    plain = worker_of(deployment("d0", protocols=("responses", "chat")), OPENAI)
    assert len(begins(plain, items=[USER]).views) == 2


def test_a_model_to_fall_back_to_that_does_not_compact_is_passed_over():
    worker = worker_of(OPENAI, deployment("d2", "other", protocols=("responses",)))
    begins(worker, route=True, models=["m", "other"])
    worker.upstream().answers(b'{"error":{"message":"x","code":"server_error"}}', status=500)
    worker.upstream().ends()
    assert "d2" not in worker.pools and worker.client.refused is not None and not worker.held


@pytest.mark.parametrize("protocols", [("responses",), ("chat",), ("messages",)])
def test_a_compaction_is_read_as_a_message_by_any_deployment(protocols):
    worker = worker_of(deployment("d1", protocols=protocols))
    exchange = begins(worker, items=[item(), USER])
    assert not worker.pools
    assert len(gives_keys(worker).sealed) == 1
    assert PREFACE + "what was said" in json.dumps(sent(worker), ensure_ascii=False).replace("\\n", "\n")
    assert exchange.compaction is None and not exchange.parsed.summaries
    worker.upstream()


@pytest.mark.parametrize("bad", ["member", "content", "short"])
def test_a_compaction_of_another_member_or_one_that_was_changed_is_refused(bad):
    given = item(member=uuid.uuid4() if bad == "member" else MEMBER)
    if bad != "member":
        text = given["encrypted_content"]
        given["encrypted_content"] = text[:-8] + "AAAAAAAA" if bad == "content" else written(b"x")
    worker = worker_of()
    begins(worker, items=[given, USER])
    gives_keys(worker)
    assert worker.client.refused.code == "foreign_object"
    assert not worker.pools and not worker.held and worker.shared.memory.used == 0


def test_a_compaction_of_a_provider_is_left_to_it():
    worker = worker_of(OPENAI)
    theirs = {"type": "compaction", "encrypted_content": "gAAAA"}
    begins(worker, items=[theirs, USER])
    assert not questions(worker, CONTENT_KEYS) and sent(worker)["input"] == [theirs, USER]


def test_an_own_compaction_is_opened_before_a_vendor_compacts_again():
    worker = worker_of(OPENAI)
    begins(worker, items=[item(), USER, TRIGGER])
    assert gives_keys(worker).makes is False
    kinds = [each.get("type", "message") for each in sent(worker)["input"]]
    assert kinds == ["message", "message", "compaction_trigger"]


@pytest.mark.parametrize("answer", [None, ContentKeys([], b"", b"")])
def test_without_a_key_nothing_is_sent_or_charged(answer):
    worker = worker_of()
    begins(worker)
    questions(worker, CONTENT_KEYS)[0][1](answer)
    assert (worker.client.refused.status, worker.client.refused.code) == (503, "database_away")
    assert not worker.pools and not worker.held and not worker.recorder.records


def test_a_client_that_left_meanwhile_costs_nothing():
    worker = worker_of()
    exchange = begins(worker)
    exchange.client_gone()
    gives_keys(worker)
    assert exchange.ended and not worker.pools and not worker.held


def test_what_grows_too_large_is_refused_before_it_costs_anything():
    for settings in ({"body_bytes_max": 400}, {"memory_bytes_max": 400}):
        worker = worker_of(**settings)
        begins(worker, items=[item(b"x" * 500), USER])
        gives_keys(worker)
        assert worker.client.refused.status in {413, 429, 503}
        assert not worker.pools and not worker.held and worker.shared.memory.used == 0


def test_a_count_of_tokens_counts_what_a_compaction_stands_for():
    worker = worker_of()
    exchange = begins(worker, items=[item(), USER, TRIGGER], free=True)
    assert gives_keys(worker).makes is False
    assert (
        PREFACE.strip() in exchange.body.decode().replace("\\n", "\n")
        and b"compaction_trigger" not in exchange.body
    )


def test_a_stored_conversation_is_compacted_too_and_stays_as_it_was_sent():
    worker = storing()
    exchange = begins(worker, items=[TRIGGER], previous_response_id="resp_1", stream=True)
    questions(worker, REPLAY_LOOKUP)[0][1](found())
    gives_keys(worker)
    roles = [each["role"] for each in sent(worker)["input"]]
    assert roles == ["user", "assistant", "user"]
    assert len(exchange.stored.items) == 2, "the request for a compaction is no part of the conversation"
    by_route = storing()
    exchange = begins(by_route, items=[], route=True, previous_response_id="resp_1")
    questions(by_route, REPLAY_LOOKUP)[0][1](found())
    gives_keys(by_route)
    assert exchange.stored is None, "the client has the compaction"


def test_a_stored_request_for_a_vendors_compaction_does_not_ask_for_it_again_when_it_is_continued():
    worker = worker_of(OPENAI)
    worker.user.service = Service(stores_responses=True)
    exchange = begins(worker, store=True)
    assert sent(worker)["input"][-1] == TRIGGER
    assert [json.loads(bytes(each)) for each in exchange.stored.items] == [USER, SAID]


def test_a_request_without_one_is_as_it_was():
    worker = worker_of()
    worker.user.service = Service()
    exchange = begins(worker, items=[USER, SAID])
    assert worker.upstream().user.request is exchange and not worker.recorder.requests
    assert exchange.compaction is None
