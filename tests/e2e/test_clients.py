"""The clients that people use, unmodified, against the real model. Skipped where the demo's packages are not installed."""

import json
import subprocess
import sys

import httpx
import pytest
from rich.progress import Progress

from tests.support.gguf import write_tokenizer
from tests.support.server import ROOT, Server, until
from tokenworks.app import calibration
from tokenworks.app.demo.model_server import MODEL, weights
from tokenworks.gateway import ModelTokenizer

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(server, subscriber, key, address of the model server)"""
    folder = tmp_path_factory.mktemp("real")
    model = subprocess.Popen(
        [sys.executable, "-m", "tokenworks.app.demo.model_server"],
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
        # The same again as a deployment that speaks chat alone.
        server.add_deployment(
            "z-chat-alone", "chat-alone", f"{url}/v1", "--protocol", "chat", "--upstream-model", MODEL, "--context-tokens", "4096",
            "--max-output-tokens", "64", wait=False,
        )  # fmt: skip
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
    spoken = server.services.deployments.all()[0].protocols
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


def test_anthropic_and_responses_with_a_deployment_of_chat(real):
    import anthropic
    import openai

    server, _, key, _ = real
    client = anthropic.Anthropic(base_url=f"http://{server.public}", api_key=key)
    asked = {"model": "chat-alone", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    raw = client.messages.with_raw_response.create(**asked)
    message = raw.parse()
    assert raw.headers["x-tokenworks-translated"] == "chat" and message.content[0].text
    row = newest(server, raw.headers["x-request-id"])
    used = message.usage
    assert row == (used.input_tokens + (used.cache_read_input_tokens or 0), used.output_tokens, "complete", "provider")  # fmt: skip
    with client.messages.stream(**asked) as stream:
        text, request_id = "".join(stream.text_stream), stream.response.headers["x-request-id"]
        final = stream.get_final_message()
    assert text and final.stop_reason in {"end_turn", "max_tokens"}
    assert final.usage.output_tokens == newest(server, request_id)[1]
    responses = openai.OpenAI(base_url=f"http://{server.public}/v1", api_key=key).responses
    with responses.create(
        model="chat-alone", max_output_tokens=8, input="Hi", store=False, stream=True
    ) as stream:
        last = list(stream)[-1]
    assert last.type in {"response.completed", "response.incomplete"}
    assert last.response.output_text and last.response.usage.output_tokens


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


def smollm2(server):
    """The folder of the model's own tokenizer."""
    folder = server.data_dir / "tokenizers" / "smollm2"
    if not folder.exists():
        write_tokenizer(weights(), folder)
    return folder


def test_its_own_tokenizer_counts_as_the_model_does(real):
    """The same prompts, with what llama.cpp itself reports beside."""
    tokenizer = ModelTokenizer(smollm2(real[0]))
    _, _, _, url = real
    for text in ("Say one word.", "How much is 128 + 4096?", "你好，世界", "def f(x):\n    return x * 2"):
        body = {
            "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": text}],
            "max_tokens": 12,
            "cache_prompt": False,
            "temperature": 0,
        }
        # The model answers when the machine lets it; where its process ends, so does the connection.
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=None)
        usage = answer.json()["usage"]
        assert tokenizer.count_request("chat", json.dumps(body).encode()) == usage["prompt_tokens"]
        shown = tokenizer.count_answer("chat", [answer.content], streamed=False)
        # The end of a text is a token that it does not show, and a character that was cut is none.
        assert usage["completion_tokens"] - 3 <= shown <= usage["completion_tokens"]


@pytest.mark.nightly
def test_the_real_engine_is_timed_and_simulated(real, monkeypatch, tmp_path):
    """With few and short requests: what it costs at its full length is time alone."""
    server, subscriber, _, _ = real
    for name, value in (
        ("PROMPT_WORDS", (20, 300)),
        ("PROMPTS_EACH", 2),
        ("AT_ONCE", (1, 2)),
        ("ANSWER_TOKENS", 8),
        ("CHECK_REQUESTS", 3),
    ):
        monkeypatch.setattr(calibration, name, value)
    before = len(server.usage(subscriber))
    fleet = tmp_path / "fleet.yaml"
    told = []
    monkeypatch.setattr(Progress, "advance", lambda *_: told.append(1))
    for seed in range(0, 5000, 1000):
        told.clear()
        asked = ("--deployment", "real", "--slots", "4", "--out", str(fleet), "--seed", str(seed), "--json")
        done = server.cli("factory", "calibrate", *asked, check=False)
        if done.returncode == 0:
            break
        # It says so where the machine was busy, and an operator times it again.
        assert "busy" in done.stderr, done.stderr
    said = json.loads(done.stdout)
    engine, check = said["engine"], said["check"]
    assert engine["prefill_ms_per_token"] > 0 and engine["decode_base_ms"] > 0 and engine["slots_max"] == 4
    assert all(value > 0 for value in check.values())
    simulated = server.cli(
        "factory", "simulate", "--trace", "synthetic:uniform", "--fleet", str(fleet), "--traffic", "0.001", "--json"
    )  # fmt: skip
    assert json.loads(simulated.stdout)
    assert len(told) == calibration.step_count(), "the bar is full at the end"
    assert len(server.usage(subscriber)) == before, "timing goes past the gateway"
    assert server.cli("factory", "calibrate", "--deployment", "nobody", check=False).returncode == 1


@pytest.fixture
def silent(real, upstream):
    """A deployment that reports no usage, with the real model's tokenizer."""
    server, subscriber, key, _ = real
    folder = smollm2(server)
    if "silent" not in {found.name for found in server.services.deployments.all()}:
        server.add_deployment(
            "silent", "silent", upstream.url, "--upstream-model", "stub", "--tokenizer", "smollm2"
        )

    def counts():
        _, _, headers = server.chat(key, {"tokens": 2, "no_usage": True}, model="silent")
        return newest(server, headers["x-request-id"])[3] == "tokenizer"

    until(counts, what="the tokenizer to be loaded")
    return server, subscriber, key, ModelTokenizer(folder)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_provider_does_not_report_is_counted_and_marked(silent, stream):
    server, subscriber, key, tokenizer = silent
    told = {"tokens": 9, "no_usage": True}
    status, _, headers = server.chat(key, told, model="silent", stream=stream)
    assert status == 200
    row = newest(server, headers["x-request-id"])
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    shown = tokenizer.count("tok " * 9)
    assert row == (
        tokenizer.count_request("chat", json.dumps(messages).encode()),
        max(9, shown),
        "complete",
        "tokenizer",
    )
    record = next(r for r in server.usage(subscriber) if r["request_id"] == headers["x-request-id"])
    assert record["flags"] == ["no_usage"]


def test_the_input_of_a_stream_that_broke_off_is_counted(silent):
    server, _, key, tokenizer = silent
    status, _, headers = server.chat(key, {"tokens": 20, "cut_after": 6}, model="silent", stream=True)
    assert status == 200
    inputs, output, state, counted_by = newest(server, headers["x-request-id"])
    messages = {"messages": [{"role": "user", "content": "hi"}]}
    assert inputs == tokenizer.count_request("chat", json.dumps(messages).encode())
    assert (output, state, counted_by) == (tokenizer.count("tok " * 6), "interrupted", "tokenizer")


def test_a_tokenizer_that_is_not_there_is_refused(real):
    server = real[0]
    done = server.cli(
        "deployment", "add", "--name", "x", "--model", "x", "--base-url", "http://127.0.0.1:9/v1", "--allow-private", "--protocol", "chat",
        "--tokenizer", "none", check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds no tokenizer" in done.stderr
