"""A conversation that the gateway stores: continued by its id at any deployment, read and deleted by its member alone, charged as sent."""

import json
import os
import signal

import openai
import pytest

from tests.e2e.test_replays import sell_with
from tests.support.server import Server, StubUpstream, until
from tokenworks.catalog import TOKEN_CLASSES, Service

KINDS = ["chat", "messages", "responses"]


@pytest.fixture(scope="module")
def stub():
    with StubUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def works(tmp_path_factory, stub):
    with Server(
        tmp_path_factory.mktemp("stored"), workers=2, drain_tokens=0, replay_answer_bytes_max=20_000
    ) as server:
        for protocol in KINDS:
            server.add_deployment(f"only-{protocol}", f"only-{protocol}", stub.url, "--protocol", protocol)
        yield server
        assert server.findings() == []


@pytest.fixture(autouse=True)
def told(stub):
    stub.behave()
    yield
    stub.behave()


@pytest.fixture(scope="module")
def plan(works):
    return sell_with(works, "stored", Service(stores_responses=True))


def client(server, key):
    return openai.OpenAI(base_url=f"http://{server.host}:{server.port}/v1", api_key=key, max_retries=6)


def drawn(record):
    return sum(part[5] for part in record["parts"])


@pytest.mark.parametrize("upstream", KINDS)
def test_a_conversation_is_continued_by_its_id_and_charged_as_its_provider_counts(
    works, stub, plan, upstream
):
    subscriber, key = works.subscriber(plan)
    openai_client = client(works, key)
    stub.behave(tokens=3, prompt=21)
    first = openai_client.responses.create(model=f"only-{upstream}", input="remember 7", store=True)
    stub.behave(tokens=2, prompt=40)
    second = openai_client.responses.create(
        model=f"only-{upstream}", input="what was it?", previous_response_id=first.id, store=True
    )
    third = list(
        openai_client.responses.create(
            model=f"only-{upstream}", input="again", previous_response_id=second.id, store=True, stream=True
        )
    )[-1].response
    found = openai_client.responses.retrieve(third.id)
    assert (found.id, found.store, found.previous_response_id) == (third.id, True, second.id)
    assert found.output_text == third.output_text == "tok tok "
    items = list(openai_client.responses.input_items.list(third.id, order="asc", limit=2))
    said = [(item.role, item.content[0].text) for item in items if item.type == "message"]
    assert said == [
        ("user", "remember 7"), ("assistant", "tok tok tok "), ("user", "what was it?"), ("assistant", "tok tok "),
        ("user", "again"),
    ]  # fmt: skip
    records = works.usage(subscriber, 3)
    # 21 + 3, then twice 40 + 2: the provider's own figures of the whole conversation.
    assert sorted(sum(record[name] for name in TOKEN_CLASSES) for record in records) == [24, 42, 42]
    assert {(record["state"], record["counted_by"]) for record in records} == {("complete", "provider")}
    assert openai_client.responses.cancel(second.id).id == second.id
    # A deleted response breaks nothing that follows it.
    openai_client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(second.id)
    again = openai_client.responses.create(model=f"only-{upstream}", input="x", previous_response_id=third.id)
    assert openai_client.responses.retrieve(again.id).previous_response_id == third.id, (
        "a conversation goes on"
    )
    assert len(works.usage(subscriber, 4)) == 4


def test_another_account_and_another_member_do_not_find_it(works, plan):
    subscriber, key = works.subscriber(plan)
    first = client(works, key).responses.create(model="only-chat", input="mine", store=True)
    _, stranger = works.subscriber(plan)
    works.services.members.add(subscriber, "Ottoline Quimby")
    other = works.key(subscriber, member="Ottoline Quimby")
    same = works.key(subscriber)
    for text in (stranger, other):
        status, content, _ = works.get(f"/v1/responses/{first.id}", text)
        assert (status, json.loads(content)["error"]["code"]) == (404, "response_not_found")
        assert works.request("DELETE", f"/v1/responses/{first.id}", text)[0] == 404
        status, content, _ = works.request("POST", "/v1/responses", text, {"model": "only-chat", "input": "x", "previous_response_id": first.id})  # fmt: skip
        assert status == 400, content
    assert works.get(f"/v1/responses/{first.id}", same)[0] == 200
    assert works.get(f"/v1/responses/{first.id}")[0] == 401


def test_without_the_plans_permission_nothing_is_stored(works):
    _, key = works.subscriber()
    first = client(works, key).responses.create(model="only-chat", input="mine", store=True)
    assert works.get(f"/v1/responses/{first.id}", key)[0] == 404


def test_a_stream_that_broke_off_is_incomplete_and_can_be_continued(works, stub, plan):
    subscriber, key = works.subscriber(plan)
    for upstream in ("chat", "responses"):
        stub.behave(tokens=6, cut_after=3)
        status, content, _ = works.request("POST", "/v1/responses", key, {"model": f"only-{upstream}", "input": "x", "store": True, "stream": True})  # fmt: skip
        assert status == 200
        events = [
            json.loads(line[6:]) for line in content.decode().splitlines() if line.startswith("data: {")
        ]
        id_ = next(event["response"]["id"] for event in events if "response" in event)
        stub.behave()
        found = client(works, key).responses.retrieve(id_)
        assert found.status == "incomplete" and found.output_text.startswith("tok ")
        assert client(works, key).responses.create(
            model=f"only-{upstream}", input="on", previous_response_id=id_
        )
    states = sorted(record["state"] for record in works.usage(subscriber, 4))
    assert states == ["complete"] * 2 + ["interrupted"] * 2


def test_an_answer_that_is_too_large_is_given_and_charged_and_not_stored(works, stub, plan):
    subscriber, key = works.subscriber(plan)
    stub.behave(pad=30_000)
    asked = {"model": "only-chat", "input": "x", "store": True}
    status, content, head = works.request("POST", "/v1/responses", key, asked)
    assert (status, head["x-tokenworks-stored"]) == (200, "false")
    assert works.get(f"/v1/responses/{json.loads(content)['id']}", key)[0] == 404
    assert drawn(works.usage(subscriber, 1)[0]) > 0
    status, content, _ = works.request("POST", "/v1/responses", key, asked | {"input": "x" * 20_001})
    assert (status, json.loads(content)["error"]["code"]) == (413, "response_too_large")
    assert len(works.usage(subscriber, 1)) == 1


def test_a_killed_worker_leaves_nothing_that_was_not_charged(works, stub, plan):
    _, key = works.subscriber(plan)
    stub.behave(tokens=50, gap_ms=50)
    sock = works.open()
    body = json.dumps({"model": "only-responses", "input": "x", "store": True, "stream": True}).encode()
    sock.sendall(
        b"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (key.encode(), len(body), body)
    )
    text = b""
    while b"output_text.delta" not in text:
        text += sock.recv(65536)
    id_ = json.loads(text.partition(b"data: ")[2].partition(b"\n")[0])["response"]["id"]
    for name, pid in works.processes():
        if name == "worker":
            os.kill(pid, signal.SIGKILL)
    sock.close()
    stub.behave()
    until(works.ready, what="the workers")
    until(lambda: _status(works, f"/v1/responses/{id_}", key) == 404, what="an answer of the workers")
    assert works.findings() == []


def _status(server, path, key):
    try:
        return server.get(path, key)[0]
    except OSError:
        return 0


def opened(works, stub, key, model, item):
    """What the deployment reads of a compaction."""
    status, content, _ = works.request("POST", "/v1/responses", key, {"model": model, "input": [item, {"role": "user", "content": "on"}]})  # fmt: skip
    assert status == 200, content
    return json.dumps(stub.get("/last")["bodies"][-1])


@pytest.mark.parametrize("upstream", KINDS)
def test_a_conversation_is_compacted_at_any_deployment_and_goes_on_at_any_other(works, stub, plan, upstream):
    subscriber, key = works.subscriber(plan)
    stub.behave(tokens=3, prompt=21)
    said = [{"role": "user", "content": "remember 7"}, {"role": "assistant", "content": "yes"}]
    made = client(works, key).responses.compact(model=f"only-{upstream}", input=said)
    assert (made.object, made.usage.input_tokens, made.usage.output_tokens) == ("response.compaction", 21, 3)
    kept, item = made.output
    assert (kept.role, item.type) == ("user", "compaction") and "tok" not in item.encrypted_content
    assert drawn(works.usage(subscriber, 1)[0]) > 0
    for model in KINDS:
        assert "tok tok tok" in opened(works, stub, key, f"only-{model}", item.to_dict())
    records = works.usage(subscriber, 4)
    assert [sum(record[name] for name in TOKEN_CLASSES) for record in records] == [24] * 4
    # In the shape of Codex: a trigger in a stream, and the sealed item goes through a second compaction.
    again = list(
        client(works, key).responses.create(
            model=f"only-{upstream}", input=[item.to_dict(), {"type": "compaction_trigger"}], stream=True
        )
    )
    (second,) = again[-1].response.output
    assert (again[-1].type, second.type) == ("response.completed", "compaction")
    assert sum(event.type == "response.output_item.done" for event in again) == 1
    assert "remember 7" not in json.dumps(stub.get("/last")["bodies"][-1]), "the summary stands for it"
    assert len(works.usage(subscriber, 5)) == 5


def test_a_compaction_is_of_its_member_alone_and_refused_before_it_costs_anything(works, stub, plan):
    subscriber, key = works.subscriber(plan)
    item = client(works, key).responses.compact(model="only-chat", input="mine").output[-1].to_dict()
    _, stranger = works.subscriber(plan)
    status, content, _ = works.request(
        "POST", "/v1/responses", stranger, {"model": "only-chat", "input": [item]}
    )
    assert (status, json.loads(content)["error"]["code"]) == (400, "foreign_object")
    stub.behave(tokens=0)
    asked = {"model": "only-chat", "input": "x"}
    status, content, _ = works.request("POST", "/v1/responses/compact", key, asked)
    assert (status, json.loads(content)["error"]["code"]) == (422, "not_compacted")
    assert len(works.usage(subscriber, 2)) == 2, "what the model read is charged"


@pytest.mark.parametrize(
    ("more", "code"),
    [({"conversation": "conv_1"}, "unpriced_field"), ({"conversation": {"id": "conv_1"}}, "unpriced_field"), ({"background": True}, "unpriced_field")],
)  # fmt: skip
def test_conversations_and_responses_in_the_background_are_refused(works, plan, more, code):
    _, key = works.subscriber(plan)
    for upstream in KINDS:
        for store in ({}, {"store": True}):
            asked = {"model": f"only-{upstream}", "input": "x"} | store | more
            status, content, _ = works.request("POST", "/v1/responses", key, asked)
            error = json.loads(content)["error"]
            assert (status, error["code"], error["param"]) == (400, code, next(iter(more)))


@pytest.mark.parametrize("upstream", KINDS)
def test_a_chat_completion_is_stored_read_and_deleted_by_its_member(works, stub, plan, upstream):
    subscriber, key = works.subscriber(plan)
    chat = client(works, key).chat.completions
    asked = {"model": f"only-{upstream}", "messages": [{"role": "user", "content": "mine"}], "store": True}
    first = chat.create(**asked, metadata={"kind": "test"})
    chunks = list(chat.create(**asked, stream=True))
    for id_, text in ((first.id, first.choices[0].message.content), (chunks[0].id, None)):
        found = chat.retrieve(id_)
        said = "".join(part.choices[0].delta.content or "" for part in chunks if part.choices)
        assert found.choices[0].message.content == (text or said) != ""
        assert [message.content for message in chat.messages.list(id_)] == ["mine"]
    assert chat.retrieve(first.id).metadata == {"kind": "test"}
    _, stranger = works.subscriber(plan)
    assert works.get(f"/v1/chat/completions/{first.id}", stranger)[0] == 404
    assert works.get(f"/v1/responses/{first.id}", key)[0] == 404
    assert chat.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        chat.retrieve(first.id)
    assert len(works.usage(subscriber, 2)) == 2
