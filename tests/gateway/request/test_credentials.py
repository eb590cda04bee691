"""A vendor's refusal of one credential is that credential's alone."""

import json

import pytest

from tests.gateway.request.support import Worker, answering, deployment, whole
from tokenworks.factory import QUOTA_REST_S, RATE_REST_S, REFUSED_REST_S, CredentialSlot
from tokenworks.gateway.protocol.vendor_errors import Fault
from tokenworks.gateway.request.credentials import is_refused, note_left

LIMITED = json.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).encode()
EMPTY = json.dumps({"error": {"message": "x", "code": "insufficient_quota"}}).encode()
UNKNOWN = json.dumps({"error": {"message": "x", "code": "invalid_api_key"}}).encode()
BUSY = json.dumps({"error": {"message": "x", "type": "overloaded_error"}}).encode()


def worker_of(*files, **told):
    more = {"credential": f"file:{files[0]}", "more_credentials": tuple(f"file:{name}" for name in files[1:])}
    worker = Worker(deployment("d1", **(more | told)), attempts_max=5)
    worker.shared.snapshot.credentials.update({f"file:{name}": f"sk-{name}" for name in files})
    return worker


def sent_with(upstream):
    head = upstream.head.decode()
    return head.partition("authorization: Bearer ")[2].partition("\r\n")[0]


def refuse(worker, status, body, **headers):
    upstream = worker.upstream()
    upstream.status, upstream.content_type = status, b"application/json"
    upstream.headers = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    upstream.user.upstream_head(upstream)
    upstream.user.upstream_data(upstream, body)
    upstream.ends()


def slots(worker):
    return worker.view("d1").credentials.slots


def rests(worker):
    return [max(0.0, slot.rests_until_s - worker.loop.now_s) for slot in slots(worker)]


def test_requests_share_the_credentials():
    worker = worker_of("a", "b")
    for _ in range(4):
        worker.begins()
    assert [sent_with(upstream) for upstream in worker.pool("d1").made] == ["sk-a", "sk-b", "sk-a", "sk-b"]
    assert [slot.in_flight for slot in slots(worker)] == [2, 2]
    for upstream in worker.pool("d1").made:
        upstream.answers(whole())
        upstream.ends()
    assert [slot.in_flight for slot in slots(worker)] == [0, 0]


@pytest.mark.parametrize(("status", "body", "headers", "rest_s"), [
    (429, LIMITED, {}, RATE_REST_S), (429, LIMITED, {"retry_after": b"30"}, 30.0), (429, EMPTY, {}, QUOTA_REST_S), (402, b"{}", {}, QUOTA_REST_S),
    (401, UNKNOWN, {}, REFUSED_REST_S), (403, b"{}", {}, REFUSED_REST_S),
])  # fmt: skip
def test_one_that_is_refused_rests_and_another_serves_the_request(status, body, headers, rest_s):
    worker = worker_of("a", "b")
    worker.begins()
    view = worker.view("d1")
    refuse(worker, status, body, **headers)
    assert [sent_with(upstream) for upstream in worker.pool("d1").made] == ["sk-a", "sk-b"]
    assert rests(worker) == [rest_s, 0.0]
    assert (view.failures, view.resting_s(worker.loop.now_s)) == (0, 0.0), "the deployment is well"
    worker.upstream().answers(whole())
    worker.upstream().ends()
    ((record, _),) = worker.recorder.records
    assert sum(record.c) == 7 and [slot.in_flight for slot in slots(worker)] == [0, 0]
    assert worker.held == 0 or worker.recorder.durable
    worker.begins()
    assert sent_with(worker.upstream()) == "sk-b"
    named = [
        question
        for question in worker.recorder.requests
        if getattr(question[1], "deployment", "") == "d1 file:a"
    ]
    assert bool(named) == bool(headers), "the other workers are told the time that the vendor named"


def test_an_overload_is_the_deployments():
    worker = worker_of("a", "b")
    worker.begins()
    refuse(worker, 529, BUSY)
    assert len(worker.pool("d1").made) == 1 and rests(worker) == [0.0, 0.0]
    assert worker.view("d1").failures == 1 and worker.client.refused.status == 502
    assert [slot.in_flight for slot in slots(worker)] == [0, 0]


def test_where_all_of_them_rest_the_deployment_rests_until_the_first_comes_back():
    worker = worker_of("a", "b")
    worker.begins()
    refuse(worker, 429, LIMITED, retry_after=b"30")
    refuse(worker, 429, LIMITED, retry_after=b"9")
    assert rests(worker) == [30.0, 9.0]
    assert worker.view("d1").resting_s(worker.loop.now_s) == 9.0
    assert worker.client.refused.status == 429 and worker.free_tokens == 100_000
    worker.loop.now_s += 9.0
    worker.begins()
    assert sent_with(worker.upstream()) == "sk-b"


def test_a_request_has_no_more_attempts_than_the_setting_allows():
    worker = worker_of(*"abcdefgh")
    worker.begins()
    for _ in range(5):
        refuse(worker, 401, UNKNOWN)
    assert len(worker.pool("d1").made) == 5 and worker.client.refused.status == 502
    assert worker.view("d1").failures == 0, "three credentials are left"


def test_a_refused_credential_is_read_again_at_once():
    worker = Worker(deployment("d1", credential="file:a"))
    shared, asked = worker.shared, []
    shared.snapshot.credentials["file:a"] = "sk-old"

    def renew(reference):
        asked.append(reference)
        if len(asked) == 1:
            shared.snapshot.credentials[reference] = "sk-new"
            shared.use_credentials(frozenset({reference}), frozenset())

    shared.renew_credential = renew
    worker.begins()
    refuse(worker, 401, UNKNOWN)
    assert sent_with(worker.upstream()) == "sk-new" and worker.view("d1").failures == 0
    refuse(worker, 401, UNKNOWN)
    assert asked == ["file:a"] * 2 and len(worker.pool("d1").made) == 2
    assert worker.view("d1").failures == 1 and worker.client.refused.status == 502


def test_a_new_credential_begins_without_the_rest_of_the_old_one():
    worker = worker_of("a", "b")
    for slot in slots(worker):
        slot.rest(worker.loop.now_s, 60.0)
    worker.shared.pause_deployment(worker.view("d1"), 60.0)
    worker.shared.use_credentials(frozenset({"file:other"}), frozenset())
    assert rests(worker) == [60.0, 60.0] and worker.view("d1").resting_s(worker.loop.now_s) == 60.0
    worker.shared.use_credentials(frozenset({"file:b"}), frozenset())
    assert rests(worker) == [60.0, 0.0] and worker.view("d1").resting_s(worker.loop.now_s) == 0.0
    worker.begins()
    assert sent_with(worker.upstream()) == "sk-b"


def test_a_deployment_rests_where_another_worker_was_told_so_of_each_credential():
    worker = worker_of("a", "b")
    view, now_s = worker.view("d1"), worker.loop.now_s
    worker.shared.apply_pauses({"d1 file:a": now_s + 30.0, "d1": now_s + 99.0})
    assert rests(worker) == [30.0, 0.0] and view.resting_s(now_s) == 0.0
    worker.shared.apply_pauses({"d1 file:a": now_s + 30.0, "d1 file:b": now_s + 9.0})
    assert view.resting_s(now_s) == 9.0
    assert not worker.recorder.requests, "what was told is not told again"


def test_a_count_of_tokens_is_asked_with_one_of_them():
    worker = worker_of("a", "b", protocols=("messages",))
    for slot in slots(worker):
        request = worker.held_state(free=True, protocol="messages", max_tokens=None)
        attempt = answering(worker, request)
        attempt.slot = slot
        head = worker.parts.renderer.head(attempt)
        assert f"x-api-key: sk-{slot.reference[-1]}\r\n".encode() in head


def test_what_is_left_of_limits_is_the_smallest_part():
    slot = CredentialSlot("d1 file:a", "file:a")
    note_left(slot, {
        b"X-RateLimit-Limit-Requests": b"100", b"x-ratelimit-remaining-requests": b"50", b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"100",
    })  # fmt: skip
    assert slot.left == 0.1
    for remaining in (b"", b"many", b"-1", b"9" * 40, b"1.5"):
        note_left(slot, {b"x-ratelimit-limit-requests": b"100", b"x-ratelimit-remaining-requests": remaining})
        assert slot.left == 1.0
    note_left(slot, {b"x-ratelimit-limit-requests": b"0", b"x-ratelimit-remaining-requests": b"0"})
    assert slot.left == 1.0
    note_left(slot, {b"anthropic-ratelimit-requests-limit": b"9"})
    assert slot.left == 1.0


@pytest.mark.parametrize(
    ("kind", "status", "refused"),
    [
        ("server", 401, True),
        ("server", 403, True),
        ("moderation", 403, False),
        ("quota", 403, False),
        ("server", 404, False),
    ],
)
def test_which_faults_are_of_the_credential(kind, status, refused):
    assert is_refused(Fault(kind, status, "", "")) == refused
