"""Paths as clients build them from a base URL: which route each means."""

import pytest

from tokenworks.gateway.http.head import HeadError, parse_head
from tokenworks.gateway.http.paths import RequestTarget, target_of

CHAT = "/v1/chat/completions"
MEANS = {
    # Bases without a version, with two, with a slash too many (BerriAI/litellm#8350, OpenHands/OpenHands#6836).
    "/chat/completions": CHAT,
    "/v1/v1/chat/completions": CHAT,
    "/v1/v1/messages": "/v1/messages",
    "//v1/chat/completions": CHAT,
    "/v1//chat/completions": CHAT,
    "/v1/chat/completions/": CHAT,
    "/v1/chat/completions//": CHAT,
    # A whole endpoint as the base.
    "/v1/chat/completions/chat/completions": CHAT,
    "/v1/chat/completions/v1/chat/completions": CHAT,
    "/v1/messages/v1/messages": "/v1/messages",
    "/v1/messages/v1/messages/count_tokens": "/v1/messages/count_tokens",
    "/v1/chat/completions/models": "/v1/models",
    "/v1/responses/input_tokens": "/v1/responses/input_tokens",
    "/openai/v1/responses/input_tokens": "/v1/responses/input_tokens",
    # The key itself, also as OpenRouter's clients ask.
    "/v1/key": "/v1/key",
    "/api/v1/key": "/v1/key",
    "/api/v1/auth/key/": "/v1/key",
    "/api/v1/usage": "/v1/usage",
    # Vendors' prefixes.
    "/openai/v1/responses": "/v1/responses",
    "/openai/v1/chat/completions": CHAT,
    "/anthropic/v1/messages": "/v1/messages",
    "/anthropic/messages": "/v1/messages",
    "/api/v1/chat/completions": CHAT,
    "/v1beta/openai/chat/completions": CHAT,
    "/compatible-mode/v1/embeddings": "/v1/embeddings",
    "/models": "/v1/models",
    "/v1/models/": "/v1/models",
    "/messages": "/v1/messages",
    "/completions": "/v1/completions",
    "/v1/models/org%2Fmodel": "/v1/models/org/model",
    "/v1/models/org%2fmodel%3A7b": "/v1/models/org/model:7b",
    "/v1/models/org/model": "/v1/models/org/model",
    "/v1/v1/models/m": "/v1/models/m",
}
AZURE = {
    "/openai/deployments/gpt-5/chat/completions": (CHAT, "gpt-5"),
    "/openai/deployments/org%2Fmodel/embeddings": ("/v1/embeddings", "org/model"),
    "/v1/openai/deployments/gpt-5/chat/completions": (CHAT, "gpt-5"),
    "/openai/v1/deployments/gpt-5/responses": ("/v1/responses", "gpt-5"),
    "/deployments/gpt-5/completions": ("/v1/completions", "gpt-5"),
}


def head_of(path):
    return parse_head(b"POST " + path.encode() + b" HTTP/1.1\r\nhost: x\r\n\r\n", 100)


@pytest.mark.parametrize("path", MEANS)
def test_a_path_means_its_route(path):
    head = head_of(path)
    assert (head.path, head.similar_route, head.model) == (MEANS[path], None, None)


@pytest.mark.parametrize("path", AZURE)
def test_azures_path_names_the_model(path):
    head = head_of(path + "?api-version=2026-01-01")
    assert (head.path, head.model) == AZURE[path]


@pytest.mark.parametrize("path", ["/foo/v1/chat/completions", "/v2/chat/completions", "/openai/x/responses"])
def test_another_path_is_told_the_right_one(path):
    found = target_of(path)
    assert found.path == path
    assert (
        found.similar_route == "/v1/" + path.split("/", 3)[3]
        if path.startswith("/foo")
        else found.similar_route.startswith("/v1/")
    )


@pytest.mark.parametrize(
    "path", ["/", "/usage", "/order", "/api/keys", "/api/operations/models", "/healthz", "/tmf-api/x/models"]
)
def test_what_is_the_control_planes_stays(path):
    assert head_of(path).path == path
    assert target_of(path) is None


@pytest.mark.parametrize(
    "path",
    ["//admin", "/a//b", "/v1%2fmodels", "/v1%2Fchat/completions", "/usage/a%2fb", "/api/models/a%2fb", "/v1/models/a%2f%2fb", "/v1/models/%2e%2e/x",
     "/v1/models/../x", "/v1/models/a%00", "/v1/models/%ff%2f", "/v1/models/a%5cb"],
)  # fmt: skip
def test_what_two_readers_could_read_differently_is_refused(path):
    with pytest.raises(HeadError) as error:
        head_of(path)
    assert error.value.refusal.code == "ambiguous_path"


def test_a_long_path_of_prefixes_is_read_at_once():
    path = "/v1" * 600 + "/chat/completions"
    assert target_of(path).path == CHAT
    assert target_of("/v1" * 600 + "/x/chat/completions").similar_route == CHAT


@pytest.mark.parametrize("base", ["", "/v1", "/openai/v1", "/v1/responses"])
@pytest.mark.parametrize("rest", ["resp_1", "resp_1/input_items", "resp_1/cancel", "compact"])
def test_a_stored_response_has_a_route_behind_any_base(base, rest):
    assert target_of(f"{base}/responses/{rest}") == RequestTarget(f"/v1/responses/{rest}")


@pytest.mark.parametrize("rest", ["a/b", "a/cancel/x", "%61", "x" * 201, "a b"])
def test_what_is_no_id_of_a_response_is_no_route_of_one(rest):
    assert target_of(f"/v1/responses/{rest}") is None
    assert target_of("/api/other/responses/resp_1") is None
