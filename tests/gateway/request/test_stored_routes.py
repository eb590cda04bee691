"""A stored response is read, listed, cancelled and deleted by its member's keys; no operation says that it succeeded when that is not known."""

import json
from types import SimpleNamespace

import pytest
from msgspec import Raw

from tests.gateway.request.support import Worker
from tests.gateway.request.test_storing import document, found, questions
from tokenworks.charging import REPLAY_DROP, REPLAY_LOOKUP, ReplayFound
from tokenworks.gateway.http.head import parse_head
from tokenworks.gateway.protocol.fields.scan import object_decoder
from tokenworks.gateway.protocol.stored_completions import encode_completion, messages_of
from tokenworks.gateway.request.replay import stored_name
from tokenworks.gateway.request.stored_routes import StoredRoute, refusal_of


def head_of(method, path):
    return parse_head(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode(), 100)


class Asked:
    def __init__(self, method, path, worker=None):
        self.worker = worker or Worker()
        self.refused, self.written = [], []
        self.conn = SimpleNamespace(transport=object(), refuse=self.refused.append)
        self.head = head_of(method, path)
        assert refusal_of(self.head) is None
        StoredRoute(self.worker.shared, self.conn, self.head, self.worker.user, self.write).run()

    def write(self, conn, status, body, head):
        self.written.append((status, json.loads(body)))

    def answer(self, answer, kind=REPLAY_LOOKUP):
        questions(self.worker, kind)[-1][1](answer)
        return self


def test_a_response_is_read_as_it_is_stored_and_cancelled_alike():
    for method, path in (("GET", "/v1/responses/resp_1"), ("POST", "/openai/v1/responses/resp_1/cancel")):
        asked = Asked(method, path).answer(found(document(previous="resp_0")))
        ((status, body),) = asked.written
        assert (status, body["id"], body["store"], body["previous_response_id"]) == (200, "resp_1", True, "resp_0")  # fmt: skip
        assert asked.worker.user.in_flight == 0
        name = questions(asked.worker, REPLAY_LOOKUP)[0][0].name
        assert name.digest == stored_name("acc", "member", "resp_1", "").digest


def test_its_input_is_a_list():
    asked = Asked("GET", "/v1/responses/resp_1/input_items?limit=5").answer(found())
    ((_, body),) = asked.written
    assert [item["content"][0]["text"] for item in body["data"]] == ["2+2"]
    asked = Asked("GET", "/v1/responses/resp_1/input_items?after=no").answer(found())
    assert asked.refused[0].param == "after"
    asked = Asked("GET", "/v1/responses/resp_1/input_items?limit=0")
    assert asked.refused[0].status == 400 and not questions(asked.worker, REPLAY_LOOKUP)


@pytest.mark.parametrize(
    ("answer", "code"),
    [(None, "database_away"), (ReplayFound("none"), "response_not_found"), (ReplayFound("in_flight"), "response_in_flight")],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_is_not_there_or_not_known_is_refused(method, answer, code):
    asked = Asked(method, "/v1/responses/resp_1").answer(answer)
    assert [refusal.code for refusal in asked.refused] == [code]
    assert not asked.written and not questions(asked.worker, REPLAY_DROP) and asked.worker.user.in_flight == 0


@pytest.mark.parametrize(
    ("after", "gone"), [(ReplayFound("none"), True), (None, False), (ReplayFound("found"), False)]
)
def test_a_response_is_deleted_when_it_is_known_to_be_gone(after, gone):
    asked = Asked("DELETE", "/v1/responses/resp_1").answer(found()).answer(None, REPLAY_DROP)
    assert not asked.written and asked.worker.user.in_flight == 1
    asked.answer(after)
    deleted = [(200, {"id": "resp_1", "object": "response", "deleted": True})]
    assert asked.written == (deleted if gone else [])
    assert [refusal.code for refusal in asked.refused] == ([] if gone else ["database_away"])
    assert asked.worker.user.in_flight == 0
    (name, _) = questions(asked.worker, REPLAY_DROP)[0]
    assert name.digest == stored_name("acc", "member", "resp_1", "").digest


def test_operations_count_as_requests_of_the_key_while_they_wait():
    worker = Worker(key_requests_max=2)
    waiting = [Asked("GET", "/v1/responses/resp_1", worker) for _ in range(2)]
    assert Asked("GET", "/v1/responses/resp_1", worker).refused[0].status == 429
    waiting[0].conn.transport = None
    for _, answered in questions(worker, REPLAY_LOOKUP):
        answered(found())
    assert worker.user.in_flight == 0 and not waiting[0].written and waiting[1].written


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/responses/resp_1?stream=true", "unsupported_operation"),
        ("GET", "/v1/responses/resp_1?include=x&stream=True", "unsupported_operation"),
        ("GET", "/v1/responses/resp_1?stream=1&starting_after=4", "unsupported_operation"),
        ("GET", "/v1/responses/resp_1?starting_after=4", "unsupported_operation"),
        ("POST", "/v1/responses/resp_1", "method_not_allowed"),
        ("DELETE", "/v1/responses/resp_1/cancel", "method_not_allowed"),
        ("POST", "/v1/responses/resp_1/input_items", "method_not_allowed"),
        ("GET", "/v1/responses/resp_1/other", "not_found"),
        ("POST", "/v1/chat/completions/c-1", "method_not_allowed"),
        ("GET", "/v1/chat/completions/c-1?stream=true", "unsupported_operation"),
    ],
)
def test_other_operations_are_refused(method, path, code):
    assert refusal_of(head_of(method, path)).code == code


def test_a_chat_completion_is_read_with_its_messages_and_deleted_and_is_no_response():
    fields = object_decoder.decode(json.dumps({"id": "c-1", "object": "chat.completion", "choices": []}))
    kept = encode_completion(fields, messages_of(Raw(b'[{"role":"user","content":"2+2"}]')), Raw(b"{}"))
    asked = Asked("GET", "/openai/v1/chat/completions/c-1").answer(found(kept))
    assert asked.written == [(200, {"id": "c-1", "object": "chat.completion", "choices": [], "metadata": {}})]
    name = questions(asked.worker, REPLAY_LOOKUP)[0][0].name
    assert name.digest == stored_name("acc", "member", "c-1", "", of_chat=True).digest
    assert name.digest != stored_name("acc", "member", "c-1", "").digest
    asked = Asked("GET", "/v1/chat/completions/c-1/messages?limit=5").answer(found(kept))
    ((_, body),) = asked.written
    assert [(each["id"], each["content"]) for each in body["data"]] == [("c-1-0", "2+2")]
    asked = Asked("DELETE", "/v1/chat/completions/c-1").answer(found(kept)).answer(None, REPLAY_DROP)
    asked.answer(ReplayFound("none"))
    assert asked.written == [(200, {"object": "chat.completion.deleted", "id": "c-1", "deleted": True})]
    assert not head_of("GET", "/v1/chat/completions/c-1/messages").messages, "its refusals are OpenAI's"
