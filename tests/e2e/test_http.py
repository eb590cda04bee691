"""HTTP as clients and upstreams really speak it: served, or a sentence that says what is right."""

import gzip
import http.client
import json
import socket
import zlib

import brotli
import pytest

from tests.support.raw import RawUpstream, whole
from tests.support.server import Server, until
from tokenworks.catalog import Catalogue, Service, seed_catalogue
from tokenworks.gateway.http import coding as codings

ANSWER = json.dumps(
    {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "stub",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello there"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
).encode()  # fmt: skip
ASK = {"model": "stub", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
BODY = json.dumps(ASK).encode()
JSON_TYPE = b"content-type: application/json"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with (
        RawUpstream(whole(ANSWER, JSON_TYPE)) as upstream,
        Server(tmp_path_factory.mktemp("http"), workers=1, body_bytes_max=1_000_000) as server,
    ):
        server.cli("alias", "add", "--alias", "org/model", "--model", "stub")
        server.cli("alias", "add", "--alias", "claude-*", "--model", "stub")
        server.add_deployment("stub", "stub", upstream.url, "--protocol", "chat", "--protocol", "messages", "--protocol", "responses", "--protocol", "embeddings")  # fmt: skip
        subscriber, key = server.subscriber("ctc-flagship")
        yield server, subscriber, key, upstream
        assert server.findings() == []
        assert "Traceback" not in server.log_text()


@pytest.fixture(autouse=True)
def _as_usual(gateway):
    yield
    gateway[3].answer, gateway[3].closes = whole(ANSWER, JSON_TYPE), False


def talk(server, data, sock=None):
    """One whole response: (status, headers in small letters, body, its socket)."""
    sock = sock or server.open()
    sock.sendall(data)
    response = http.client.HTTPResponse(sock)
    response.begin()
    body = response.read()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body, sock


def post(key, *lines, path="/v1/chat/completions", body=BODY, method="POST"):
    head = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {key}", *lines]
    return ("\r\n".join(head) + f"\r\ncontent-length: {len(body)}\r\n\r\n").encode() + body


def chunked(key, *lines, body=BODY):
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        f"authorization: Bearer {key}",
        "transfer-encoding: chunked",
        *lines,
    ]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


# Clients.

H2C = (
    "connection: Upgrade, HTTP2-Settings",
    "upgrade: h2c",
    "http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)


def test_an_offer_of_h2c_with_a_chunked_body_is_served_and_the_connection_goes_on(gateway):
    """The JDK's HttpClient by default (reactor/reactor-netty#1071)."""
    server, _, key, _ = gateway
    sock = None
    for _ in range(3):
        status, headers, body, sock = talk(server, chunked(key, *H2C), sock)
        assert (status, headers.get("connection"), b"hello there" in body) == (200, None, True)
    status, *_ = talk(server, post(key), sock)
    assert status == 200


def test_what_follows_a_chunked_body_ends_the_connection_as_its_answer_says(gateway):
    server, _, key, _ = gateway
    status, headers, _, sock = talk(server, chunked(key) + post(key))
    assert (status, headers["connection"]) == (200, "close")
    assert sock.recv(10) == b""


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/responses", "/v1/realtime", "/"])
def test_an_offer_of_websocket_is_answered_426_and_the_connection_goes_on(gateway, path):
    server, _, key, upstream = gateway
    before = len(upstream.heads)
    lines = (
        "connection: keep-alive, Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-key: QUJDREVGR0hJSktMTU5PUA==",
    )
    head = (
        "\r\n".join([f"GET {path} HTTP/1.1", "host: x", f"authorization: Bearer {key}", *lines]) + "\r\n\r\n"
    ).encode()
    status, headers, body, sock = talk(server, head)
    assert (status, headers["upgrade"]) == (426, "HTTP/1.1")
    assert json.loads(body)["error"]["code"] == "upgrade_required"
    assert len(upstream.heads) == before
    assert talk(server, post(key), sock)[0] == 200


ENCODED = {
    "gzip": gzip.compress(BODY), "x-gzip": gzip.compress(BODY), "deflate": zlib.compress(BODY), "br": brotli.compress(BODY),
    "zstd": codings.zstd.compress(BODY), "utf-8": BODY, "identity": BODY, "GZIP": BODY, "gzip, br": brotli.compress(gzip.compress(BODY)),
}  # fmt: skip


@pytest.mark.parametrize("send", [post, chunked])
@pytest.mark.parametrize("name", ENCODED)
def test_coded_bodies_are_served_and_go_on_as_they_are(gateway, name, send):
    server, _, key, upstream = gateway
    status, _, body, _ = talk(server, send(key, f"content-encoding: {name}", body=ENCODED[name]))
    assert (status, b"hello there" in body) == (200, True), body
    assert b"content-encoding" not in upstream.heads[-1]
    assert json.loads(upstream.bodies[-1])["messages"] == ASK["messages"]


BAD = {
    "a gzip bomb": ("gzip", lambda: gzip.compress(bytes(40_000_000)), 413),
    "a br bomb": ("br", lambda: brotli.compress(bytes(40_000_000), quality=1), 413),
    "a zstd bomb": ("zstd", lambda: codings.zstd.compress(bytes(40_000_000)), 413),
    "a bomb in a bomb": ("gzip, gzip", lambda: gzip.compress(gzip.compress(bytes(40_000_000))), 413),
    "cut gzip": ("gzip", lambda: gzip.compress(BODY)[:-9], 400),
    "no zstd": ("zstd", lambda: b"\xffnothing", 400),
    "no br": ("br", lambda: b"\xff\xff\xff", 400),
    "an unknown coding": ("compress", lambda: BODY, 415),
    "three codings": ("gzip, br, gzip", lambda: BODY, 415),
}


@pytest.mark.parametrize("kind", BAD)
def test_bombs_and_broken_bodies_are_refused(gateway, kind):
    server, _, key, upstream = gateway
    name, make, status = BAD[kind]
    before = len(upstream.heads)
    found, _, said, sock = talk(server, post(key, f"content-encoding: {name}", body=make()))
    assert found == status, said
    assert "error" in json.loads(said)
    assert len(upstream.heads) == before
    assert talk(server, post(key), sock)[0] == 200


def test_a_coded_body_is_not_decoded_for_a_key_that_nobody_has(gateway):
    server, _, key, _ = gateway
    other = server.key(gateway[1])
    key_id = next(
        k.key_id
        for k in server.services.keys.of_account(gateway[1].account_id, {})
        if other.endswith(k.hint[-4:])
    )
    server.services.keys.revoke(key_id)
    status, _, said, _ = talk(
        server, post(other, "content-encoding: gzip", body=gzip.compress(bytes(40_000_000)))
    )
    assert (status, json.loads(said)["error"]["code"]) == (401, "key_revoked")
    assert (
        server.request("POST", "/api/sign-in", None, gzip.compress(b"{}"), {"content-encoding": "gzip"})[0]
        == 415
    )


def test_a_body_with_a_byte_order_mark_is_served(gateway):
    server, _, key, upstream = gateway
    assert talk(server, post(key, body=b"\xef\xbb\xbf" + BODY))[0] == 200
    assert json.loads(upstream.bodies[-1])["messages"] == ASK["messages"]


@pytest.mark.parametrize(
    "lines",
    [
        ("authorization: Bearer sk-not-ours", "x-api-key: {key}"), ("authorization: Bearer {key}", "x-api-key: sk-not-ours"), ("x-goog-api-key: {key}",),
        ("api-key: {key}",), ("authorization: {key}",), ("authorization: bearer  {key}",), ("authorization: Bearer {revoked}", "x-api-key: {key}"),
        ("authorization: Bearer {key}", "x-api-key: {revoked}"),
    ],
)  # fmt: skip
def test_of_several_credentials_the_valid_one_counts(gateway, lines):
    server, subscriber, key, upstream = gateway
    revoked = server.key(subscriber)
    key_id = next(
        k.key_id
        for k in server.services.keys.of_account(subscriber.account_id, {})
        if revoked.endswith(k.hint[-4:])
    )
    server.services.keys.revoke(key_id)
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: x",
        *(line.format(key=key, revoked=revoked) for line in lines),
    ]
    sock = None
    for _ in range(2):
        status, _, body, sock = talk(
            server, ("\r\n".join(head) + f"\r\ncontent-length: {len(BODY)}\r\n\r\n").encode() + BODY, sock
        )
        assert status == 200, body
    assert key.encode().lower() not in upstream.heads[-1]


def test_a_key_in_the_query_counts_and_goes_no_further(gateway):
    server, _, key, upstream = gateway
    head = f"POST /v1/chat/completions?key={key}&beta=true&x=y HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n\r\n"
    assert talk(server, head.encode() + BODY)[0] == 200
    # Of a query only what the protocol's list names goes on: nothing of chat's.
    assert upstream.heads[-1].split(b"\r\n")[0] == b"post /v1/chat/completions http/1.1"


@pytest.mark.parametrize(
    "path",
    ["/chat/completions", "/v1/v1/chat/completions", "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/", "/openai/v1/chat/completions",
     "/v1/chat/completions/chat/completions", "/openai/deployments/stub/chat/completions?api-version=2026-01-01",
     "/openai/deployments/org%2Fmodel/chat/completions?api-version=2026-01-01"],
)  # fmt: skip
def test_paths_that_mean_a_route_are_served(gateway, path):
    server, _, key, upstream = gateway
    body = {**ASK, "model": "gpt-none"} if "deployments" in path else ASK
    status, _, said, _ = talk(server, post(key, path=path, body=json.dumps(body).encode()))
    assert status == 200, said
    assert upstream.heads[-1].split(b"\r\n")[0] == b"post /v1/chat/completions http/1.1"


def test_azures_path_needs_no_model_in_the_body(gateway):
    server, _, key, upstream = gateway
    body = json.dumps({"messages": ASK["messages"]}).encode()
    assert (
        talk(server, post(key, path="/openai/deployments/stub/chat/completions?api-version=1", body=body))[0]
        == 200
    )
    assert json.loads(upstream.bodies[-1])["model"] == "stub"


@pytest.mark.parametrize(
    ("path", "right", "shape"),
    [("/foo/v1/chat/completions", "/v1/chat/completions", "chat"), ("/v2/messages", "/v1/messages", "messages"), ("/v1/nothing", "/v1/chat/completions", "chat")],
)  # fmt: skip
def test_another_path_is_told_the_right_one_in_protocol(gateway, path, right, shape):
    server, _, key, _ = gateway
    status, _, said, _ = talk(server, post(key, path=path))
    told = json.loads(said)
    assert (status, right in told["error"]["message"], told.get("type")) == (
        404,
        True,
        "error" if shape == "messages" else None,
    )


def test_a_models_id_may_have_encoded_slashes(gateway):
    server, _, key, _ = gateway
    for path in ("/v1/models/org%2Fmodel", "/v1/models/org/model", "/models/org%2fmodel"):
        status, said, _ = server.get(path, key)
        assert (status, json.loads(said)["id"]) == (200, "org/model")
    assert server.get("/v1%2fmodels", key)[0] == 400


def test_a_wildcard_alias_serves_names_that_are_not_known_yet(gateway):
    server, _, key, upstream = gateway
    assert server.chat(key, model="claude-opus-99")[0] == 200
    assert json.loads(upstream.bodies[-1])["model"] == "stub"
    assert json.loads(server.get("/v1/models/claude-opus-99", key)[1])["id"] == "claude-opus-99"
    assert server.chat(key, model="claudette")[0] == 404
    mine = server.key(gateway[1], models=("claude-*",))
    assert server.chat(mine, model="claude-opus-99")[0] == 200
    assert server.chat(mine, model="stub")[0] == 403


def test_a_plans_default_model_serves_what_no_model_is_named_for(gateway):
    server, _, _, upstream = gateway
    seed = seed_catalogue()
    card = next(card for card in seed.rate_cards if card.id == "one-price")
    like = next(offering for offering in seed.offerings if offering.id == "sample-trial")
    plan = like.model_copy(update={"id": "with-default", "service": Service(default_model="stub")})
    server.services.offerings.load(Catalogue(catalogue="defaults", rate_cards=(card,), offerings=(plan,)))
    subscriber, key = server.subscriber("with-default")
    assert server.chat(key, model="gpt-unheard-of")[0] == 200
    assert json.loads(upstream.bodies[-1])["model"] == "stub"
    elsewhere = server.key(subscriber, models=("org/model-2",))
    assert server.chat(elsewhere, model="gpt-unheard-of")[0] in {403, 404}


def test_claude_code_finds_somebody_there(gateway):
    server, *_ = gateway
    for method, path in (("HEAD", "/"), ("HEAD", "/api/hello"), ("GET", "/api/hello")):
        status, body, headers = server.request(method, path)
        assert (status, bool(body)) == (200, method == "GET")
        assert headers["request-id"] == headers["x-request-id"]


def test_every_answer_has_both_ids(gateway):
    server, _, key, _ = gateway
    answers = [
        server.chat(key), server.chat("twk_x"), server.get("/v1/models", key), server.get("/v1/nothing"), server.get("/healthz"), server.get("/usage"),
        server.request("POST", "/api/sign-in", None, {}), server.request("OPTIONS", "/v1/models"), server.get("//admin"),
    ]  # fmt: skip
    for status, _, headers in answers:
        assert headers["request-id"] == headers["x-request-id"], status


# Pages of other origins.


def preflight(
    server,
    origin="https://app.example",
    path="/v1/chat/completions",
    wanted="authorization, content-type, x-stainless-os",
):
    return server.request("OPTIONS", path, None, None, {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": wanted})  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/models",
        "/v1/models/stub",
        "/chat/completions",
        "/foo/v1/responses",
    ],
)
def test_a_preflight_is_answered_without_a_key(gateway, path):
    """lidge-jun/opencodex#1773: whatever the SDK sends may be sent."""
    server, *_ = gateway
    status, body, headers = preflight(server, path=path)
    assert (status, body) == (204, b"")
    assert headers["access-control-allow-origin"] == "*"
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"] == "authorization, content-type, x-stainless-os"
    assert "access-control-allow-credentials" not in headers


def test_answers_and_refusals_may_be_read_by_a_page_with_their_ids(gateway):
    server, _, key, _ = gateway
    origin = {"origin": "https://app.example"}
    for status, _, headers in (
        server.chat(key, headers=origin), server.chat("twk_no", headers=origin), server.get("/v1/models", key, origin), server.get("/v1/nothing", key, origin),
        server.chat(key, headers=origin, model="nothing"),
    ):  # fmt: skip
        assert headers["access-control-allow-origin"] == "*", status
        assert "x-request-id" in headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in server.chat(key)[2]


def test_the_control_plane_is_nobody_elses(gateway):
    server, *_ = gateway
    for path in ("/api/keys", "/usage", "/api/sign-in"):
        assert "access-control-allow-origin" not in preflight(server, path=path)[2]


def test_a_key_may_be_kept_to_its_pages(gateway):
    server, subscriber, _, _ = gateway
    done = server.cli(
        "key",
        "create",
        "--subscriber",
        str(subscriber.subscriber_id),
        "--origin",
        "https://app.example/",
        "--json",
    )
    key = json.loads(done.stdout)["key"]
    assert server.chat(key, headers={"origin": "https://app.example"})[0] == 200
    assert server.chat(key, headers={"origin": "https://APP.example"})[0] == 200
    assert server.chat(key)[0] == 200
    status, body, headers = server.chat(key, headers={"origin": "https://evil.example"})
    assert (status, json.loads(body)["error"]["code"]) == (403, "origin_not_allowed")
    assert headers["access-control-allow-origin"] == "*"
    bad = server.cli(
        "key", "create", "--subscriber", str(subscriber.subscriber_id), "--origin", "app.example", check=False
    )
    assert bad.returncode == 1


def test_the_setting_names_the_origins(tmp_path):
    with Server(tmp_path, workers=1, cors_origins="https://app.example, http://localhost:3000") as server:
        status, _, headers = preflight(server)
        assert (status, headers["access-control-allow-origin"], headers["vary"]) == (
            204,
            "https://app.example",
            "origin",
        )
        assert "access-control-allow-origin" not in preflight(server, origin="https://evil.example")[2]


# Upstreams.


ANSWERS = {
    "gzip": whole(gzip.compress(ANSWER), JSON_TYPE, b"content-encoding: gzip"),
    "br": whole(brotli.compress(ANSWER), JSON_TYPE, b"Content-Encoding: br"),
    "zstd": whole(codings.zstd.compress(ANSWER), JSON_TYPE, b"content-encoding: zstd"),
    "deflate": whole(zlib.compress(ANSWER), JSON_TYPE, b"content-encoding: deflate"),
    "gzip twice": whole(gzip.compress(gzip.compress(ANSWER)), JSON_TYPE, b"content-encoding: gzip, gzip"),
    "gzip without a word": whole(gzip.compress(ANSWER), JSON_TYPE),
    "plain that says gzip": whole(ANSWER, JSON_TYPE, b"content-encoding: gzip"),
    "utf-8": whole(ANSWER, JSON_TYPE, b"content-encoding: utf-8"),
    "a mark": whole(b"\xef\xbb\xbf" + ANSWER, JSON_TYPE),
    "no type": whole(ANSWER),
    "capitals": whole(ANSWER, b"CONTENT-TYPE: APPLICATION/JSON; charset=UTF-8"),
    "early hints": b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n" + whole(ANSWER, JSON_TYPE),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_as_upstreams_send_them(gateway, name):
    server, _, key, upstream = gateway
    upstream.answer = ANSWERS[name]
    status, body, headers = server.chat(key)
    assert (status, body) == (200, ANSWER)
    assert "content-encoding" not in headers
    assert headers["content-type"].lower().startswith("application/json")


def test_headers_pass_by_allow_list_both_ways(gateway):
    server, _, key, upstream = gateway
    upstream.answer = whole(
        ANSWER, JSON_TYPE, b"x-ratelimit-limit-requests: 1", b"openai-organization: o", b"x-request-id: up-1", b"request-id: up-2", b"cf-ray: x", b"via: 1.1 x",
        b"set-cookie: a=b", b"access-control-allow-origin: https://vendor.example", b"x-litellm-model-api-base: http://10.1.2.3", b"x-envoy-a: 1",
        b"www-authenticate: Basic", b"clear-site-data: *", b"x-tokenworks-choice: forged", b"server: vendor", b"cache-control: no-cache",
    )  # fmt: skip
    sent = {"openai-organization": "org", "openai-project": "p", "anthropic-beta": "fast-mode", "x-stainless-os": "Linux", "anthropic-version": "2023-06-01", "idempotency-key": "k"}  # fmt: skip
    status, _, headers = server.chat(key, headers=sent)
    assert status == 200
    assert set(headers) <= {"content-type", "content-length", "cache-control", "x-request-id", "request-id"}
    assert not headers["x-request-id"].startswith("up")
    names = {line.split(b":")[0] for line in upstream.heads[-1].split(b"\r\n")[1:]}
    assert names <= {
        b"host",
        b"content-type",
        b"content-length",
        b"accept",
        b"accept-encoding",
        b"anthropic-version",
        b"authorization",
        b"x-api-key",
    }


def test_a_stream_in_gzip_is_metered(gateway):
    server, subscriber, key, upstream = gateway
    before = len(server.usage(subscriber))
    events = [
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [{"index": 0, "delta": {"content": f"word{n} "}, "finish_reason": None}]}
        for n in range(5)
    ] + [
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "stub", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}},
    ]  # fmt: skip
    out = zlib.compressobj(wbits=31)

    def answer(head, body):
        yield b"HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream;charset=UTF-8\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
        for event in [*map(json.dumps, events), "[DONE]"]:
            sent = out.compress(f"data: {event}\n\n".encode()) + out.flush(zlib.Z_SYNC_FLUSH)
            yield b"%x\r\n%b\r\n" % (len(sent), sent)
        sent = out.flush()
        yield b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent)

    upstream.answer = answer
    status, body, _ = server.chat(key, stream=True)
    assert status == 200
    assert b"word4" in body
    assert body.endswith(b"data: [DONE]\n\n")
    record = server.usage(subscriber, before + 1)[0]
    assert (record["fresh_input"], record["output"]) == (10, 5)


def test_what_an_upstream_can_not_mean_is_a_failed_attempt(gateway):
    server, *_ = gateway
    key = gateway[2]
    with RawUpstream() as bad:
        server.add_deployment("bad", "bad", bad.url, "--protocol", "chat")
        for answer in (
            whole(b"\xff\xff\xff\xff", JSON_TYPE, b"content-encoding: gzip"), whole(b"xxxx", JSON_TYPE, b"content-encoding: compress"),
            b"HTTP/1.1 200 OK\r\n" + b"".join(b"h%d: v\r\n" % n for n in range(3000)) + b"content-length: 0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
        ):  # fmt: skip
            bad.answer = answer
            assert server.chat(key, model="bad")[0] in {502, 503}
        server.cli("deployment", "remove", "bad")
        until(lambda: b'"bad"' not in server.get("/v1/models", key)[1], what="the deployment to be gone")


def test_a_half_closed_socket_is_a_client_gone(gateway):
    server, _, key, _ = gateway
    sock = server.open()
    sock.sendall(post(key)[:-5])
    sock.shutdown(socket.SHUT_WR)
    assert sock.recv(10) == b""
