"""What is kept of a response continues it exactly, is listed as OpenAI lists it, and is read tolerantly."""

import json

import pytest

from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.protocol.fields.scan import object_decoder
from tokenworks.gateway.protocol.stored import (
    ITEMS_LIMIT_MAX,
    ItemsPage,
    conversation,
    cut_response,
    decode_stored,
    encode_stored,
    ended_response,
    input_items,
    items_body,
    read_items_page,
    response_body,
    response_id,
    stored_body,
    whole_response,
)


def raw(**fields):
    return object_decoder.decode(json.dumps(fields))


def plain(raws):
    return [json.loads(bytes(value)) for value in raws]


MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": []}
CALL = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}


def stored(output, items, previous=None, **more):
    return decode_stored(encode_stored(raw(id="resp_1", output=output, **more), items, previous))


def test_a_conversation_is_the_input_and_the_output_in_order_without_ids_of_the_output():
    items = input_items(raw(input=[{"role": "user", "content": "hi", "id": "mine"}])["input"])
    gone = {"type": "reasoning", "id": "rs_1", "summary": []}
    sealed = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "x"}
    found = plain(conversation(stored([gone, sealed, MESSAGE, CALL, "odd"], items)))
    without = [
        {name: value for name, value in item.items() if name != "id"} for item in (sealed, MESSAGE, CALL)
    ]
    assert found == [{"role": "user", "content": "hi", "id": "mine"}, *without]


def test_a_compaction_in_the_output_stands_for_all_items_before_it():
    items = input_items(raw(input=[{"role": "user", "content": "hi"}])["input"])
    compaction = {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}
    found = plain(conversation(stored([MESSAGE, compaction, CALL], items)))
    assert [item["type"] for item in found] == ["compaction", "function_call"]


def test_a_text_is_the_message_of_a_user():
    assert plain(input_items(raw(input='say "hi"\n')["input"])) == [{"role": "user", "content": 'say "hi"\n'}]


def test_the_body_that_is_sent_continues_nothing_and_stores_nothing_elsewhere():
    fields = raw(model="m", input="x", previous_response_id="resp_1", store=True, top_p=0.5)
    body = json.loads(stored_body(fields, input_items(fields["input"]), store=True))
    assert body == {"model": "m", "input": [{"role": "user", "content": "x"}], "store": False, "top_p": 0.5}
    body = json.loads(stored_body(raw(model="m", input="x"), [], store=False))
    assert body == {"model": "m", "input": []}, "a wish that the client did not have is not added"


def test_a_stored_response_says_that_it_is_stored_and_what_it_continued():
    found = json.loads(response_body(stored([], [], "resp_0", store=False, previous_response_id=None)))
    assert (found["store"], found["previous_response_id"], found["id"]) == (True, "resp_0", "resp_1")


@pytest.mark.parametrize(
    "fields",
    [{}, {"id": 5, "output": []}, {"id": "", "output": []}, {"id": "a"}, {"id": "a", "output": {}}, {"id": "x" * 201, "output": []},
     {"id": "a/b=", "output": []}, {"id": "a\r\nb", "output": []}],
)  # fmt: skip
def test_what_has_no_output_or_no_id_that_a_route_takes_is_not_stored(fields):
    assert response_id(raw(**fields)) is None
    assert response_id(raw(id="x" * 200, output=[])) == "x" * 200


def test_bytes_that_are_no_object_are_no_response():
    assert [whole_response(body) for body in (b"", b"[]", b"{", b"\xff")] == [None] * 4


def sse(*events, end="\n"):
    return "".join(
        f"event: {event['type']}{end}data: {json.dumps(event)}{end}{end}" for event in events
    ).encode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_the_last_event_of_a_whole_stream_has_the_response(kind, end):
    response = {"id": "resp_1", "output": [MESSAGE]}
    events = sse({"type": "response.output_text.done"}, {"type": kind, "response": response}, end=end)
    found = ended_response(events + b"data: [DONE]\n\n")
    assert json.loads(json.dumps(plain(found["output"] for _ in "x")))[0] == [MESSAGE]
    assert ended_response(sse({"type": "response.created", "response": response})) is None


def begun(*events):
    return sse({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "output": []}}, *events)  # fmt: skip


def test_a_cut_stream_keeps_what_is_whole_and_the_text_of_what_is_not():
    part = {"type": "message", "id": "msg_2", "role": "assistant", "status": "in_progress", "content": []}
    events = begun(
        {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE},
        {"type": "response.output_item.added", "output_index": 10, "item": CALL},
        {"type": "response.function_call_arguments.delta", "output_index": 10, "delta": '{"a'},
        {"type": "response.output_item.added", "output_index": 2, "item": part},
        {"type": "response.output_text.delta", "output_index": 2, "delta": "one "},
        {"type": "response.output_text.delta", "output_index": 2, "delta": "two"},
    )
    found = cut_response(events, at_maximum=True)
    assert json.loads(bytes(found["status"])) == "incomplete"
    assert json.loads(bytes(found["incomplete_details"])) == {"reason": "max_output_tokens"}
    first, second = json.loads(bytes(found["output"]))
    assert first == MESSAGE
    assert (second["status"], second["content"][0]["text"]) == ("incomplete", "one two")
    assert json.loads(bytes(cut_response(events, at_maximum=False)["incomplete_details"])) is None
    assert cut_response(b": ping\n\n", at_maximum=False) is None


def test_a_cut_stream_is_read_at_every_end_of_its_bytes():
    events = begun({"type": "response.output_text.delta", "output_index": 0, "delta": "é"})
    for end in range(len(events)):
        found = cut_response(events[:end], at_maximum=False)
        assert found is None or response_id(found) == "resp_1"


def listed(kept, query=b""):
    page = read_items_page(query)
    assert not isinstance(page, Refusal)
    found = items_body(kept, page)
    return None if found is None else json.loads(found)


def test_input_items_are_listed_in_pages_that_meet():
    kept = stored([], input_items(raw(input=[{"role": "user", "content": str(n)} for n in range(7)] + ["odd"])["input"]))  # fmt: skip
    everything = listed(kept)
    texts = [item["content"] for item in everything["data"]]
    assert texts == [[{"type": "input_text", "text": str(n)}] for n in reversed(range(7))]
    assert (everything["object"], everything["has_more"]) == ("list", False)
    assert {item["type"] for item in everything["data"]} == {"message"}
    seen, after = [], ""
    while True:
        page = listed(kept, f"order=asc&limit=3{after and '&after=' + after}".encode())
        seen += page["data"]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == everything["data"][::-1]
    assert listed(kept, b"after=other") is None
    assert listed(stored([], []))["data"] == []


@pytest.mark.parametrize(
    "query", [b"limit=0", b"limit=101", b"limit=x", b"limit=", b"limit=%D9%A1", b"order=up"]
)
def test_a_page_that_is_none_is_refused(query):
    found = read_items_page(query)
    if query == b"limit=":
        assert found.limit <= ITEMS_LIMIT_MAX
    else:
        assert isinstance(found, Refusal) and found.status == 400


@pytest.mark.parametrize("ascending", [False, True])
def test_a_page_of_a_long_conversation_reads_its_own_items_alone(monkeypatch, ascending):
    """A list costs nothing, and the loop of the worker would stand still while it reads all items."""
    items = [{"role": "user", "content": "a"}] * 50 + [{"id": "msg_50", "role": "user", "content": "a"}]
    kept = stored([], input_items(raw(input=items)["input"]))
    times = 0

    def counted(body):
        nonlocal times
        times += 1
        return whole_response(body)

    monkeypatch.setattr("tokenworks.gateway.protocol.stored.whole_response", counted)
    for after, of in (
        ("msg_50", 50),
        ("item_7_resp_1", 7),
        ("item_50_resp_1", None),
        ("item_07_resp_1", None),
    ):
        found = items_body(kept, ItemsPage(3, after, ascending))
        if of is None:
            assert found is None
            continue
        places = range(of + 1, 51) if ascending else range(of - 1, -1, -1)
        names = [f"item_{place}_resp_1" if place < 50 else "msg_50" for place in places]
        body = json.loads(found)
        assert [item["id"] for item in body["data"]] == names[:3]
        assert body["has_more"] == (len(names) > 3)
    assert times <= 6
