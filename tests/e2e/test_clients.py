"""The clients that people use, unmodified, against the real model. Skipped where the demo's packages are not installed."""

import subprocess
import sys

import pytest

from tests.support.server import ROOT, Server, until
from tokenworks.app.model_server import MODEL

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(server, subscriber, key, address of the model server)"""
    folder = tmp_path_factory.mktemp("real")
    model = subprocess.Popen(
        [sys.executable, "-m", "tokenworks.app.model_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    url = model.stdout.readline().strip()
    with Server(folder, workers=2) as server:
        # What it speaks is asked of it.
        server.add_deployment(
            "real", MODEL, f"{url}/v1", "--context-tokens", "4096", "--max-output-tokens", "64"
        )
        server.cli("alias", "add", "--alias", "claude-small", "--model", MODEL)
        subscriber, key = server.subscriber()
        until(lambda: b"claude-small" in server.get("/v1/models", key)[1], what="the alias")
        yield server, subscriber, key, url
        assert server.findings() == []
    model.stdin.close()
    model.wait(20)
    model.stdout.close()


def newest(server, request_id):
    """The usage record of a request, once it is settled."""
    row = until(
        lambda: server.connection.execute(
            "SELECT fresh_input + cached_input + cache_write, output + reasoning, state, counted_by FROM usage WHERE request_id = %s",
            (request_id,),
        ).fetchone(),
        what="the record",
    )
    return row


def test_the_deployment_said_what_it_speaks(real):
    server, _, _, _ = real
    spoken = server.works.deployments.all()[0].protocols
    assert {"chat", "completions", "messages", "responses"} <= set(spoken)


def test_openai_chat(real):
    import openai

    server, _, key, _ = real
    client = openai.OpenAI(base_url=f"http://{server.public}/v1", api_key=key)
    assert MODEL in [m.id for m in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "Hi"}]
    )
    answer = raw.parse()
    assert newest(server, raw.headers["x-request-id"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        "complete",
        "provider",
    )
    with client.chat.completions.create(
        model=MODEL, max_tokens=8, stream=True, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        request_id = stream.response.headers["x-request-id"]
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert all(c.choices for c in chunks)  # the usage event was ours
    assert newest(server, request_id)[2:] == ("complete", "provider")


def test_openai_completions_and_responses(real):
    import openai

    server, _, key, _ = real
    client = openai.OpenAI(base_url=f"http://{server.public}/v1", api_key=key)
    raw = client.completions.with_raw_response.create(model=MODEL, max_tokens=4, prompt="One two")
    assert newest(server, raw.headers["x-request-id"])[1] == raw.parse().usage.completion_tokens
    raw = client.responses.with_raw_response.create(model=MODEL, max_output_tokens=6, input="Hi", store=False)
    assert newest(server, raw.headers["x-request-id"])[1] == raw.parse().usage.output_tokens
    with client.responses.create(model=MODEL, max_output_tokens=6, input="Hi", stream=True) as stream:
        request_id = stream.response.headers["x-request-id"]
        events = [event.type for event in stream]
    assert events[-1] == "response.completed"
    assert newest(server, request_id)[2:] == ("complete", "provider")


def test_openai_errors_are_its_own(real):
    import openai

    server, _, _, _ = real
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"http://{server.public}/v1", api_key="twk_wrong").models.list()
    assert caught.value.request_id


def test_anthropic(real):
    import anthropic

    server, _, key, _ = real
    client = anthropic.Anthropic(base_url=f"http://{server.public}", api_key=key)
    assert client.models.list().data
    assert (
        client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "Hi"}]).input_tokens
        > 0
    )
    raw = client.messages.with_raw_response.create(
        model="claude-small", max_tokens=8, messages=[{"role": "user", "content": "Hi"}]
    )
    usage = raw.parse().usage
    row = newest(server, raw.headers["x-request-id"])
    assert row == (
        usage.input_tokens + (usage.cache_read_input_tokens or 0),
        usage.output_tokens,
        "complete",
        "provider",
    )
    with client.messages.stream(
        model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        assert "".join(stream.text_stream)
        request_id = stream.response.headers["x-request-id"]
        assert stream.get_final_message().usage.output_tokens == newest(server, request_id)[1]
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(
            model="claude-none", max_tokens=8, messages=[{"role": "user", "content": "Hi"}]
        )


def test_langchain(real):
    lc = pytest.importorskip("langchain_openai")
    server, subscriber, key, _ = real
    before = len(server.usage(subscriber))
    llm = lc.ChatOpenAI(base_url=f"http://{server.public}/v1", api_key=key, model=MODEL, max_tokens=6)
    assert llm.invoke("Hi").content
    assert "".join(chunk.content for chunk in llm.stream("Hi"))
    server.usage(subscriber, before + 2)


def test_llama_index(real):
    li = pytest.importorskip("llama_index.llms.openai_like")
    server, subscriber, key, _ = real
    before = len(server.usage(subscriber))
    llm = li.OpenAILike(
        api_base=f"http://{server.public}/v1", api_key=key, model=MODEL, max_tokens=6, is_chat_model=True
    )
    assert llm.complete("Hi").text
    assert "".join(chunk.delta or "" for chunk in llm.stream_complete("Hi"))
    server.usage(subscriber, before + 2)


def test_pydantic_ai(real):
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    from pydantic_ai.providers.openai import OpenAIProvider

    server, subscriber, key, _ = real
    before = len(server.usage(subscriber))
    chat = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"http://{server.public}/v1", api_key=key))
    assert Agent(chat, model_settings={"max_tokens": 6}).run_sync("Hi").output
    messages = AnthropicModel(
        MODEL, provider=AnthropicProvider(base_url=f"http://{server.public}", api_key=key)
    )
    assert Agent(messages, model_settings={"max_tokens": 6}).run_sync("Hi").output
    server.usage(subscriber, before + 2)
