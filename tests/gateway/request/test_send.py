"""What a deployment is sent, and how long its answer is waited for."""

from tests.gateway.request.support import Worker, answering, deployment


def test_a_head_is_remembered_with_the_clients_until_a_credential_or_the_snapshot_changes():
    worker = Worker(deployment("d1", credential="env:TOKENWORKS_UPSTREAM_C"))
    request = worker.held_state()
    worker.shared.snapshot.credentials["env:TOKENWORKS_UPSTREAM_C"] = "secret"
    attempt = answering(worker, request)
    head = worker.parts.renderer.head(attempt)
    assert head.endswith(b"authorization: Bearer secret\r\naccept-encoding: identity\r\ncontent-length: ")
    worker.shared.snapshot.credentials["env:TOKENWORKS_UPSTREAM_C"] = "other"
    assert worker.parts.renderer.head(attempt) is head
    worker.shared.use_credentials(frozenset({"env:TOKENWORKS_UPSTREAM_C"}), frozenset())
    assert b"Bearer other" in worker.parts.renderer.head(attempt)


def test_a_deployment_is_called_at_the_vendors_path_with_the_vendors_header():
    azure = deployment(
        "d1", base_url="https://acme.openai.azure.com/openai/v1", profile="azure-openai", credential="file:a"
    )
    zhipu = deployment(
        "d2", base_url="https://api.z.ai/api/paas/v4", profile="zhipu", protocols=("chat", "messages")
    )
    worker = Worker(azure, zhipu)
    worker.shared.snapshot.credentials["file:a"] = "secret"
    head = worker.parts.renderer.head(answering(worker, worker.held_state()))
    assert head.startswith(b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: acme.openai.azure.com\r\n")
    assert b"\r\napi-key: secret\r\n" in head and b"authorization" not in head
    attempt = answering(worker, worker.held_state(protocol="messages"), "d2")
    assert worker.parts.renderer.head(attempt).startswith(b"POST /api/anthropic/v1/messages ")


def test_a_count_of_tokens_has_a_path_of_its_own_and_no_maximum():
    worker = Worker(deployment("d1", protocols=("messages",)))
    request = worker.held_state(free=True, protocol="messages", max_tokens=None)
    assert worker.parts.renderer.head(answering(worker, request)).startswith(b"POST /v1/messages/count_tokens ")  # fmt: skip
    assert b"max_tokens" not in worker.parts.renderer.body(answering(worker, request))


def test_what_is_left_out_is_named():
    worker = Worker()
    attempt = answering(worker, worker.held_state(unheard_of=1))
    assert b"unheard_of" not in worker.parts.renderer.body(attempt)
    assert "unheard_of" in attempt.dropped


def test_an_answer_that_is_not_streamed_may_take_as_long_as_the_request_has_left():
    worker = Worker()
    attempt = answering(worker, worker.held_state())
    attempt.request.tried = ["d1"]
    worker.loop.now_s += 100
    assert worker.parts.renderer.patience_s(attempt) == 500
    worker = Worker("d1", "d2")
    attempt = answering(worker, worker.held_state(max_tokens=100))
    attempt.request.tried = ["d1"]
    assert worker.parts.renderer.patience_s(attempt) == 60


def test_a_stream_that_is_much_later_than_foreseen_is_not_waited_for_where_another_could_be_tried():
    worker = Worker("d1", "d2")
    attempt = answering(worker, worker.held_state(stream=True))
    attempt.request.tried = ["d1"]
    attempt.foreseen_ms = 100.0
    assert worker.parts.renderer.patience_s(attempt) == 5
    attempt.foreseen_ms = 2500.0
    assert worker.parts.renderer.patience_s(attempt) == 10
    attempt.request.tried = ["d1", "d2"]
    assert worker.parts.renderer.patience_s(attempt) == 60


def test_a_deployment_may_say_how_long_it_is_silent():
    worker = Worker("d1", deployment("d2", idle_timeout_s=7))
    renderer = worker.parts.renderer
    assert [renderer.idle_timeout_s(worker.view(name)) for name in ("d1", "d2")] == [30, 7]
