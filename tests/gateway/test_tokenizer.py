import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.support import real_tokenizers
from tokenworks.gateway.tokenizer import PIECE_CHARS, ModelTokenizer
from tokenworks.kernel import Invalid


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of words, and a template of one word a role."""
    made = tmp_path_factory.mktemp("tokenizers") / "words"
    made.mkdir()
    words = ["[unk]", "one", "two", "three", "system", "user", "assistant", "tool", "go"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(made / "tokenizer.json"))
    return made


@pytest.fixture(scope="module")
def plain(folder):
    return ModelTokenizer(folder)


TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}go{% endif %}"


@pytest.fixture(scope="module")
def templated(folder, tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizers") / "templated"
    made.mkdir()
    (made / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (made / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "eos_token": {"content": "x"}})
    )
    return ModelTokenizer(made)


CHAT = {
    "messages": [
        {"role": "system", "content": "one two"},
        {"role": "user", "content": [{"type": "text", "text": "three"}]},
    ]
}
REQUESTS = [
    ("chat", CHAT, 3, 6),
    ("messages", {"system": "one", "messages": [{"role": "user", "content": "two three"}]}, 3, 6),
    ("responses", {"input": "one two"}, 2, 4),
    ("responses", {"instructions": "one", "input": [{"role": "user", "content": [{"type": "input_text", "text": "two"}]}]}, 2, 5),
    ("completions", {"prompt": ["one two", "three"]}, 3, 3),
    ("completions", {"prompt": [5, 6, 7, 8]}, 4, 4),
    ("embeddings", {"input": "one two three"}, 3, 3),
    ("messages", {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "one", "input": "two"}]}]}, 4, 6),
    ("responses", {"input": [{"type": "function_call", "name": "one", "arguments": " two"}]}, 2, 4),
    ("chat", {"messages": "no list"}, 1, 1),
    ("chat", ["no object"], 1, 1),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "body", "texts", "whole"), REQUESTS)
def test_a_request_is_counted_with_its_template_or_by_its_texts(
    plain, templated, protocol, body, texts, whole
):
    data = json.dumps(body).encode()
    assert plain.count_request(protocol, data) == texts
    assert templated.count_request(protocol, data) == whole


def test_a_template_that_refuses_is_passed_over(folder, tmp_path):
    made = tmp_path / "strict"
    made.mkdir()
    (made / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (made / "chat_template.jinja").write_text("{{ raise_exception('roles alternate') }}")
    assert ModelTokenizer(made).count_request("chat", json.dumps(CHAT).encode()) == 3


def test_a_template_reaches_nothing_of_ours(folder, tmp_path):
    made = tmp_path / "hostile"
    made.mkdir()
    (made / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (made / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    assert ModelTokenizer(made).count_request("chat", json.dumps(CHAT).encode()) == 3


def sse(*events):
    return b"".join(
        b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n"
        for event in events
    )


ANSWERS = [
    ("chat", False, json.dumps({"choices": [{"message": {"content": "one two", "reasoning_content": "three"}}]}).encode(), 3),
    ("chat", True, sse({"choices": [{"index": 0, "delta": {"content": "o"}}]}, {"choices": [{"index": 0, "delta": {"content": "ne two"}}]}, b"[DONE]"), 2),
    ("chat", True, sse({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "one", "arguments": ""}}]}}]},
                       {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": " two"}}]}}]}), 2),
    ("completions", False, json.dumps({"choices": [{"index": 0, "text": "one two"}, {"index": 1, "text": "three"}]}).encode(), 3),
    ("responses", True, sse({"type": "response.output_text.delta", "item_id": "a", "delta": "one"}, {"type": "response.output_text.delta", "item_id": "a", "delta": " two"}), 2),
    ("responses", False, json.dumps({"output": [{"content": [{"type": "output_text", "text": "one two"}]}]}).encode(), 2),
    ("messages", True, sse({"type": "content_block_delta", "index": 0, "delta": {"text": "one two"}}), 2),
    ("messages", False, json.dumps({"content": [{"type": "text", "text": "one"}]}).encode(), 1),
    ("messages", False, json.dumps({"content": [{"type": "tool_use", "name": "one", "input": {"two": "three"}}]}).encode(), 7),
    ("responses", False, json.dumps({"output": [{"summary": [{"text": "one"}]}, {"name": "two", "arguments": " three"}]}).encode(), 3),
    ("chat", True, b"data: {broken\n\ndata: [1]\n\n", 0),
]  # fmt: skip


@pytest.mark.parametrize(("protocol", "streamed", "data", "tokens"), ANSWERS)
def test_an_answer_is_counted_by_what_it_shows(plain, protocol, streamed, data, tokens):
    chunks = [data[:20], data[20:]]
    assert plain.count_answer(protocol, chunks, streamed=streamed) == tokens


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(Invalid, match="holds no tokenizer"):
        ModelTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Invalid, match="holds no tokenizer"):
        ModelTokenizer(tmp_path)


def test_a_long_text_is_counted_in_pieces_and_never_more_than_it_is(plain):
    assert plain.count("one two " * PIECE_CHARS) == 2 * PIECE_CHARS
    assert 1 <= plain.count("x" * 5 * PIECE_CHARS) <= 1
    seen = []
    plain.count("one " * PIECE_CHARS, lambda: seen.append(1))
    assert len(seen) == 5, "it can be stopped between any two"


def test_pieces_of_a_real_tokenizer_are_what_the_whole_is():
    tokenizer = ModelTokenizer(real_tokenizers.smollm2_folder())
    count = real_tokenizers.counters()["smollm2"]
    words = "The quick brown fox, 12 times; jumps\n  over the lazy dogs and cats. " * 1500
    assert len(words) > 3 * PIECE_CHARS
    assert tokenizer.count(words) == count(words)
    chinese = "人工智能正在改变世界，中国的科技公司也在快速发展。" * 4000
    assert count(chinese) - 20 <= tokenizer.count(chinese) <= count(chinese)
