"""Clients as people have them, with their default settings, through the gateway to an upstream that answers as vendors do."""

import asyncio
import http.client
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from tests.edge.agents import Agent
from tests.edge.check import Books
from tests.edge.vendor import OUTPUT, PROMPT, TEXT, Vendor
from tests.support.server import until
from tokenworks.gateway.protocol.compaction import INSTRUCTION, PREFACE

pytestmark = pytest.mark.xdist_group("edge-clients")
HERE = Path(__file__).parent / "clients"
MODEL = "stub-1"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "say it"}]}


@pytest.fixture(scope="module")
def vendor(bench):
    made = Vendor()
    bench.await_(made.open())
    spoken = [
        option
        for name in ("chat", "messages", "responses", "completions", "embeddings")
        for option in ("--protocol", name)
    ]
    for name in (MODEL, "org/stub"):
        bench.server.add_deployment(name.replace("/", "-"), name, f"http://127.0.0.1:{made.port}/v1", *spoken)
    return made


class Paid:
    """A subscriber of a client's own: what it asked is charged, request for request."""

    def __init__(self, bench, vendor):
        self.bench, self.vendor = bench, vendor
        self.subscriber, self.key = bench.server.subscriber("ctc-flagship")
        self.url = f"http://{bench.server.public}"
        self.before = len(vendor.seen)

    def charged(self, output=OUTPUT):
        """Everything that the upstream was asked is charged as the upstream reported it."""
        asked = [hit for hit in self.vendor.seen[self.before :] if "count_tokens" not in hit[1]]
        assert asked, "the upstream was not asked"
        until(
            lambda: len(self.bench.usage(self.subscriber)) >= len(asked), what=f"{len(asked)} usage records"
        )
        self.bench.settled()
        rows = self.bench.usage(self.subscriber)
        books = Books(rows)
        assert len(rows) == len(asked), str(books)
        assert books.charged["fresh_input"] == PROMPT * len(asked), str(books)
        assert books.charged["output"] == output * len(asked), str(books)
        assert books.lost_tokens == 0, str(books)


@pytest.fixture
def paid(bench, vendor):
    return Paid(bench, vendor)


def test_openai_chat(paid):
    client = openai.OpenAI(base_url=f"{paid.url}/v1", api_key=paid.key)
    assert client.chat.completions.create(**BODY).choices[0].message.content == TEXT
    chunks = client.chat.completions.create(**BODY, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    paid.charged()


def test_openai_chat_that_stops_at_the_finish_reason(paid):
    client = openai.OpenAI(base_url=f"{paid.url}/v1", api_key=paid.key)
    with client.chat.completions.create(**BODY, stream=True) as chunks:
        for chunk in chunks:
            if chunk.choices and chunk.choices[0].finish_reason:
                break
    paid.charged()


def test_openai_responses(paid):
    client = openai.OpenAI(base_url=f"{paid.url}/v1", api_key=paid.key)
    assert client.responses.create(model=MODEL, input="say it").output_text == TEXT
    events = list(client.responses.create(model=MODEL, input="say it", stream=True))
    assert events[-1].type == "response.completed"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    paid.charged()


def test_openai_embeddings(paid):
    client = openai.OpenAI(base_url=f"{paid.url}/v1", api_key=paid.key)
    assert client.embeddings.create(model=MODEL, input="say it").usage.prompt_tokens == PROMPT
    paid.charged(output=0)


def test_openai_models_with_a_slash(paid):
    client = openai.OpenAI(base_url=f"{paid.url}/v1", api_key=paid.key)
    assert client.models.retrieve("org/stub").id == "org/stub"


@pytest.mark.parametrize("path", ["/v1/", "", "/", "/v1/v1"])
def test_openai_with_another_base_url(paid, path):
    client = openai.OpenAI(base_url=f"{paid.url}{path}", api_key=paid.key, max_retries=0)
    try:
        assert client.chat.completions.create(**BODY).choices[0].message.content == TEXT
    except openai.APIStatusError as error:
        assert "/v1" in error.message, error.message  # it says which one is right


def test_anthropic_messages(paid):
    client = anthropic.Anthropic(base_url=paid.url, api_key=paid.key)
    raw = client.messages.with_raw_response.create(model=MODEL, max_tokens=100, messages=BODY["messages"])
    assert raw.parse().content[0].text == TEXT
    assert raw.headers["request-id"]
    with client.messages.stream(model=MODEL, max_tokens=100, messages=BODY["messages"]) as stream:
        assert "".join(stream.text_stream) == TEXT
    assert client.messages.count_tokens(model=MODEL, messages=BODY["messages"]).input_tokens > 0
    paid.charged()


def test_anthropic_with_an_auth_token(paid):
    client = anthropic.Anthropic(base_url=f"{paid.url}/", auth_token=paid.key, api_key=None)
    assert (
        client.messages.create(model=MODEL, max_tokens=100, messages=BODY["messages"]).content[0].text == TEXT
    )
    paid.charged()


def of_urllib(url, key):
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(BODY).encode(), headers), timeout=30
    ) as answer:
        return [f"{answer.status} {answer.read().decode()}"]


def of_http_client(url, key):
    """Sized, and in chunks."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    said, data = [], json.dumps(BODY).encode()
    for body in (data, iter([data[:9], data[9:]])):
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        said.append(f"{answer.status} {answer.read().decode()}")
        connection.close()
    return said


def of_httpx(url, key):
    answer = httpx.post(url, json=BODY, headers={"authorization": f"Bearer {key}"}, timeout=30)
    return [f"{answer.status_code} {answer.text}"]


def of_requests(url, key):
    requests = pytest.importorskip("requests")
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    sized = requests.post(url, json=BODY, headers=headers, timeout=30)
    chunked = requests.post(url, data=iter([json.dumps(BODY).encode()]), headers=headers, timeout=30)
    return [f"{each.status_code} {each.text}" for each in (sized, chunked)]


def of_aiohttp(url, key):
    aiohttp = pytest.importorskip("aiohttp")

    async def ask():
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=BODY, headers={"authorization": f"Bearer {key}"}) as answer,
        ):
            return [f"{answer.status} {await answer.text()}"]

    return asyncio.run(ask())


def of_a_program(*argv):
    def ask(url, key):
        if shutil.which(argv[0]) is None:
            pytest.skip(f"{argv[0]} is not here")
        done = subprocess.run(
            [*argv, url, key, json.dumps(BODY)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().splitlines()

    return ask


HTTP_CLIENTS = {
    "urllib": of_urllib, "http.client": of_http_client, "httpx": of_httpx, "requests": of_requests, "aiohttp": of_aiohttp,
    "jdk": of_a_program("java", str(HERE / "Client.java")),
    "node": of_a_program("node", str(HERE / "client.mjs")), "go": of_a_program("go", "run", str(HERE / "client.go")),
}  # fmt: skip


@pytest.mark.parametrize("name", HTTP_CLIENTS)
def test_http_client(paid, name):
    said = HTTP_CLIENTS[name](f"{paid.url}/v1/chat/completions", paid.key)
    assert said
    for each in said:
        assert each.startswith("200 ") and TEXT in each, each
    paid.charged()


AGENTS = ["codex", "claude", "opencode", "qwen"]


@pytest.mark.parametrize("name", AGENTS)
def test_agent(paid, tmp_path, name):
    agent_works(paid, tmp_path, name, install=False)


@pytest.mark.nightly
@pytest.mark.parametrize("name", AGENTS)
def test_agent_of_the_lock(paid, tmp_path, name):
    agent_works(paid, tmp_path, name, install=True)


def agent_works(paid, tmp_path, name, *, install):
    if name == "claude":
        paid.bench.server.cli("alias", "add", "--alias", "claude-*", "--model", MODEL)
        until(lambda: asks_for(paid, "claude-of-tomorrow") == 200, what="the alias")
        paid = Paid(paid.bench, paid.vendor)
    agent = Agent(tmp_path / "home", paid.url, paid.key, MODEL, install=install)
    said = getattr(agent, name)()
    assert TEXT in said, said[-3000:]
    paid.charged()


def test_codex_goes_on_after_a_compaction_by_a_deployment_that_speaks_chat_alone(bench, vendor, tmp_path):
    bench.server.add_deployment(
        "chatty", "chatty", f"http://127.0.0.1:{vendor.port}/v1", "--protocol", "chat"
    )
    paid = Paid(bench, vendor)
    agent = Agent(tmp_path / "home", paid.url, paid.key, "chatty")
    said = agent.codex_compacting()
    assert said.count(TEXT) == 2 and "turn.failed" not in said, said[-3000:]
    first, summary, last = [json.dumps(hit[3]["messages"]) for hit in paid.vendor.seen[paid.before :]]
    assert INSTRUCTION in summary and INSTRUCTION not in first + last
    assert f"{PREFACE}{TEXT}" in last.replace("\\n", "\n"), "the next turn has the summary"
    paid.charged()


def asks_for(paid, model):
    body = {"model": model, "max_tokens": 10, "messages": BODY["messages"]}
    return paid.bench.server.request("POST", "/v1/messages", paid.key, body)[0]


def test_the_lock_of_the_agents_names_no_host():
    text = (HERE / "package-lock.json").read_text()
    assert "://" not in text and '"resolved"' not in text and '"integrity"' in text
