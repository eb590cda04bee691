"""Vendors by their profiles, on a real server: stubs that answer as the vendors do, credentials that rotate and that share a load."""

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.server import Server, until
from tokenworks.catalog import Counts
from tokenworks.factory import load_profile


class Vendor:
    """A vendor on this machine: it takes the keys that it is told, at the paths that it is told, and answers with a profile's own usage."""

    def __init__(self):
        self.keys = {}  # key -> (status, body, headers) of its refusal, or None: it is served
        self.usage, self.calls, self.lock = {}, [], threading.Lock()

    def __enter__(self):
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(200, {"data": []})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                key = (
                    self.headers.get("api-key")
                    or self.headers.get("x-api-key")
                    or self.headers.get("authorization", "").removeprefix("Bearer ")
                )
                with vendor.lock:
                    vendor.calls.append((self.path, key, {name.lower() for name in self.headers}, body))
                    refusal = vendor.keys.get(
                        key, (401, {"error": {"code": "invalid_api_key", "message": "who?"}}, {})
                    )
                if refusal is not None:
                    self.answer(*refusal)
                elif self.path.endswith("/messages"):
                    self.answer(200, {"id": "u", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": "end_turn",
                                      "content": [{"type": "text", "text": "hello"}], "usage": vendor.usage})  # fmt: skip
                else:
                    self.answer(200, {"id": "u", "object": "chat.completion", "model": body["model"], "usage": vendor.usage,
                                      "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]})  # fmt: skip

            def answer(self, status, content, headers=()):
                out = json.dumps(content).encode()
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def used(self):
        """The keys of the calls since the last look."""
        with self.lock:
            found, self.calls = [key for _, key, _, _ in self.calls], []
        return found


@pytest.fixture(scope="module")
def vendor():
    with Vendor() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("vendors"), workers=1) as made:
        yield made


@pytest.fixture(scope="module")
def subscriber(server):
    return server.subscriber()


@pytest.fixture
def key(subscriber):
    return subscriber[1]


def secret(server, name, text):
    file = server.settings.secrets / name
    half = file.with_name(f"{name}.new")
    half.write_text(text + "\n")
    half.chmod(0o600)
    half.rename(file)


def add(server, key, model, *options):
    server.cli("deployment", "add", "--model", model, "--allow-private", *options)
    until(lambda: f'"{model}"' in server.get("/v1/models", key)[1].decode(), what=f"model {model}")


# A vendor, the path below its host, its protocol, and the header that carries the credential.
SAMPLE = [
    ("zhipu", "/api/paas/v4", "chat", "/api/paas/v4/chat/completions", "authorization"),
    ("azure-openai", "/openai/v1", "chat", "/openai/v1/chat/completions", "api-key"),
    ("anthropic", "", "messages", "/v1/messages", "x-api-key"),
    ("moonshot", "/v1", "chat", "/v1/chat/completions", "authorization"),
    ("xai", "/v1", "chat", "/v1/chat/completions", "authorization"),
    ("dashscope", "/compatible-mode/v1", "chat", "/compatible-mode/v1/chat/completions", "authorization"),
    ("mistral", "/v1", "chat", "/v1/chat/completions", "authorization"),
]


@pytest.mark.parametrize(
    ("name", "base", "protocol", "path", "header"), SAMPLE, ids=[row[0] for row in SAMPLE]
)
def test_a_vendor_is_called_read_and_charged_by_its_profile(
    server, vendor, subscriber, key, name, base, protocol, path, header
):
    profile = load_profile(name)
    example = [found for found in profile.usage.examples if found.protocol == protocol][-1]
    vendor.keys, vendor.usage, model = {f"sk-{name}": None}, example.usage, f"model-of-{name}"
    secret(server, name, f"sk-{name}")
    add(server, key, model, "--vendor", name, "--base-url", vendor.url + base, "--protocol", protocol,
        "--credential", f"file:{name}")  # fmt: skip
    vendor.used()
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 500}
    if name == "mistral":
        body |= {"stream_options": {"include_usage": True}}
    before = len(server.usage(subscriber[0]))
    asked = "/v1/messages" if protocol == "messages" else "/v1/chat/completions"
    status, answer, headers = server.request("POST", asked, key, body)
    assert status == 200, answer
    ((called, sent, names, got),) = vendor.calls
    assert (called, sent) == (path, f"sk-{name}")
    assert names & {"authorization", "api-key", "x-api-key"} == {header}
    assert got[profile.max_tokens_field.get(protocol, "max_tokens")] == 500
    dropped = headers.get("x-tokenworks-dropped", "")
    assert ("stream_options" in dropped) == (name == "mistral") and "stream_options" not in got
    record = server.usage(subscriber[0], before + 1)[0]
    assert {named: record[named] for named in Counts._fields if record[named]} == example.counts


def test_a_code_of_the_vendors_own_is_the_clients_fault_or_nobodys(server, vendor, key):
    """1261 is Zhipu's code of a request that is longer than the context: the client is told so, and it is not the deployment's fault."""
    vendor.keys = {"sk-codes": (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, {})}
    secret(server, "codes", "sk-codes")
    add(
        server,
        key,
        "coded",
        "--vendor",
        "zhipu",
        "--base-url",
        vendor.url,
        "--protocol",
        "chat",
        "--credential",
        "codes",
    )
    status, answer, _ = server.chat(key, model="coded")
    assert status == 400 and json.loads(answer)["error"]["code"] == "context_length_exceeded"


def test_no_request_fails_while_a_credential_is_renewed(server, vendor, key):
    """The vendor takes the new key from the moment on in which the file is written, and the old one no longer; clients keep their
    connections.
    """
    vendor.keys = {"sk-1": None}
    secret(server, "renewed", "sk-1")
    add(
        server,
        key,
        "renewing",
        "--vendor",
        "zhipu",
        "--base-url",
        vendor.url,
        "--protocol",
        "chat",
        "--credential",
        "renewed",
    )
    body = json.dumps({"model": "renewing", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5})
    client = http.client.HTTPConnection(server.host, server.port, timeout=30)

    def ask():
        client.request(
            "POST",
            "/v1/chat/completions",
            body,
            {"authorization": f"Bearer {key}", "content-type": "application/json"},
        )
        answer = client.getresponse()
        answer.read()
        return answer.status

    assert ask() == 200
    for number in (2, 3):
        vendor.used()
        secret(server, "renewed", f"sk-{number}")
        with vendor.lock:
            vendor.keys = {f"sk-{number}": None}
        assert [ask() for _ in range(5)] == [200] * 5
        assert vendor.used()[-1] == f"sk-{number}"
    client.close()


def test_credentials_share_the_load_and_one_that_is_refused_rests_alone(server, vendor, subscriber, key):
    vendor.keys = dict.fromkeys(("sk-x", "sk-y", "sk-z"))
    for name in "xyz":
        secret(server, f"shared-{name}", f"sk-{name}")
    options = [word for name in "xyz" for word in ("--credential", f"file:shared-{name}")]
    add(
        server,
        key,
        "shared",
        "--vendor",
        "moonshot",
        "--base-url",
        vendor.url,
        "--protocol",
        "chat",
        *options,
    )
    vendor.used()
    before = len(server.usage(subscriber[0]))

    def ask(times):
        assert [server.chat(key, model="shared")[0] for _ in range(times)] == [200] * times
        return vendor.used()

    assert sorted(ask(6)) == ["sk-x", "sk-x", "sk-y", "sk-y", "sk-z", "sk-z"]
    with vendor.lock:
        vendor.keys["sk-x"] = (
            429,
            {"error": {"type": "rate_limit_reached_error", "message": "x"}},
            {"retry-after": "600"},
        )
    used = ask(6)
    assert used.count("sk-x") == 1 and used.count("sk-y") == used.count("sk-z") == 3
    with vendor.lock:
        vendor.keys["sk-y"] = (429, {"error": {"type": "exceeded_current_quota_error", "message": "x"}}, {})
    used = ask(4)
    assert used.count("sk-x") == 0 and used.count("sk-y") == 1 and used.count("sk-z") == 4
    with vendor.lock:
        vendor.keys["sk-z"] = (
            429,
            {"error": {"type": "rate_limit_reached_error", "message": "x"}},
            {"retry-after": "900"},
        )
    status, _, headers = server.chat(key, model="shared")
    # y is the first to come back, in five minutes.
    assert status == 429 and 290 <= int(headers["retry-after"]) <= 300
    vendor.used()
    assert server.chat(key, model="shared")[0] == 429 and vendor.used() == []
    # Sixteen answers, sixteen records: what was refused was not charged.
    assert len(server.usage(subscriber[0], before + 16)) == before + 16
    # A new credential begins at once.
    vendor.keys["sk-new"] = None
    secret(server, "shared-y", "sk-new")
    until(lambda: server.chat(key, model="shared")[0] == 200, what="the new credential")
    assert vendor.used()[-1] == "sk-new"


def test_the_books_are_right_after_all_of_it(server):
    assert server.findings() == []
