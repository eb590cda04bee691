"""Bounds against real tokenizers: never less than a text has from above, never more from below."""

import base64
import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import real_tokenizers
from tokenworks.gateway.protocol.estimate import (
    LEAST_CHARS_MAX,
    NAMED_TOOL_TOKENS,
    TEMPLATE_TOKENS,
    TOOLS_TOKENS,
    InputRules,
    bound_input,
    estimated_text_tokens,
    least_input,
    least_output,
    least_text,
)
from tokenworks.gateway.tokenizer import ModelTokenizer


class ParsedRequest(msgspec.Struct):
    """The parts of a parsed body that bound its input."""

    fields: dict[str, msgspec.Raw]
    text_bytes: int
    content: object = None

    @property
    def tools(self):
        return self.fields.get("tools")


def parsed(body, *, media=None):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ParsedRequest(msgspec.json.decode(data, type=dict[str, msgspec.Raw]), len(data), media)


def chat(text, **more):
    return {"messages": [{"role": "user", "content": text}]} | more


_random = random.Random(29)
TEXTS = {
    "english": "The quick brown fox jumps over the lazy dog, and nobody minds. It's 5 o'clock.\n" * 20,
    "long words": "internationalization responsibilities representatives infrastructure " * 20,
    "chinese": "人工智能正在改变世界，中国的科技公司也在快速发展。我们需要更多的研究和投资，才能跟上时代的步伐。",
    "chinese names": "中华人民共和国" * 40,
    "rare chinese": "".join(chr(_random.randrange(0x4E00, 0x9FA5)) for _ in range(2000)),
    "japanese": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "thai": "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีน",
    "hindi": "भारत एक विशाल देश है और इसकी संस्कृति बहुत पुरानी है।",
    "arabic": "الذكاء الاصطناعي يغير العالم من حولنا بسرعة كبيرة",
    "russian": "Искусственный интеллект меняет мир вокруг нас очень быстро и незаметно. ",
    "vietnamese": "Trí tuệ nhân tạo đang thay đổi thế giới xung quanh chúng ta. ",
    "decomposed": "Tri\u0301 tue\u0323\u0302 nha\u0302n ta\u0323o cafe\u0301 nai\u0308ve",
    "code": "def f(x):\n    if x is None:\n        return [i ** 2 for i in range(10)]\n    return x.y[0]['key']\n" * 20,
    "java": "org.springframework.boot.autoconfigure.SpringBootApplication;" * 20,
    "camel": "translatesAutoresizingMaskIntoConstraints" * 10,
    "json": '{"name":"value","list":[1,2,3],"nested":{"deep":true,"null":null}}' * 20,
    "base64": base64.b64encode(_random.randbytes(3000)).decode(),
    "zeros in base64": base64.b64encode(bytes(3000)).decode(),
    "hex": _random.randbytes(2000).hex(),
    "digits": "0123456789" * 100,
    "emoji": "😀😂🥲👍🏽👨‍👩‍👧‍👦❤️" * 20,
    "one emoji": "😂" * 300,
    "spaces": " " * 3000,
    "newlines": "\n" * 2000,
    "mixed spaces": "\t \r\n" * 800,
    "one letter": "a" * 3000,
    "rules": ("=" * 79 + "\n" + "-" * 40 + "\n") * 20,
    "css": "/*-----------------------------------------------------------------------------------*/" * 10,
    "alternating": "-=" * 1000 + "ab" * 1000 + "._" * 500,
    "alphabet": "abcdefghijklmnopqrstuvwxyz" * 50,
    "urls": "https://www.example.com/index.html?x=1&y=2 " * 20,
    "no pairs": "1a2b3c.d,e;f!" * 100,
    "nul": "\0\x01\x7f" * 100,
    "private": "\ue000\U0010ffff\ufffd" * 100,
    "empty": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def counters():
    return real_tokenizers.counters()


def check(counters, text):
    least, most = least_text(text), len(text.encode("utf-8", "surrogatepass"))
    for name, count in counters.items():
        assert least <= count(text) <= most, (name, text[:80])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_lies_between_its_bounds(counters, text):
    check(counters, text)


_WORDS = st.sampled_from(
    ["the ", "internationalization", "的", "人工智能", "。", "ing", "12", "==", "\n", "    ", "foo", "😀", "é", "e\u0301", "don't", "_", "Straße ", "привет "]
)  # fmt: skip
_REPEATED = st.builds(lambda word, times: word * times, _WORDS, st.integers(1, 40))


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=300), st.lists(_REPEATED, max_size=20).map("".join)))
def test_any_text_lies_between_its_bounds(text):
    check(real_tokenizers.counters(), text)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["system", "user", "assistant"]),
                "content": st.text(max_size=100).map(lambda text: text.encode("utf-8", "ignore").decode()),
            }
        ),
        min_size=1,
        max_size=12,
    ),
    st.booleans(),
)
def test_a_request_with_its_template_lies_between_its_bounds(messages, escaped):
    """Whatever way its JSON is written."""
    tokenizer = ModelTokenizer(real_tokenizers.smollm2_folder())
    body = json.dumps({"messages": messages}, ensure_ascii=escaped, separators=(",", ":")).encode()
    counted = tokenizer.count_request("chat", body)
    assert least_input(parsed(body), "chat") <= counted <= bound_input(parsed(body), "chat").tokens


def test_tools_lie_within_the_bound():
    tokenizer = ModelTokenizer(real_tokenizers.smollm2_folder())
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "properties": {"a": {"enum": list(range(50))}}},
        },
    }
    body = chat("go", tools=[tool] * 20)
    assert (
        tokenizer.count_request("chat", json.dumps(body).encode()) <= bound_input(parsed(body), "chat").tokens
    )


def test_the_bound_is_of_bytes_and_of_what_is_added():
    plain = bound_input(parsed(chat("hi")), "chat")
    assert plain == (len(json.dumps(chat("hi"))) + TEMPLATE_TOKENS, 0, TEMPLATE_TOKENS)
    tools = chat("hi", tools=[{"type": "bash_20250124", "name": "bash"}])
    assert (
        bound_input(parsed(tools), "messages").tokens
        == len(json.dumps(tools)) + TEMPLATE_TOKENS + TOOLS_TOKENS + NAMED_TOOL_TOKENS
    )
    assert bound_input(parsed(chat("hi")), "chat", stored_tokens=89_020).tokens == plain.tokens + 89_020
    assert bound_input(parsed(chat("hi")), "chat", InputRules(inserts_tokens=50)).tokens == plain.tokens + 50
    halved = bound_input(parsed(chat("x" * 9999)), "chat", InputRules(bytes_per_token_milli=2000))
    assert halved.tokens < 5300


def test_media_are_added_and_what_has_no_size_is_named():
    content = [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://img.example.com/a.png"}}],
        }
    ]
    bound = bound_input(parsed(chat("hi"), media=content), "chat")
    assert bound.tokens > 14_000
    assert bound.unbounded_items == 1


@pytest.mark.parametrize(
    ("protocol", "body", "least"),
    [
        ("chat", chat("one two three"), 3),
        ("chat", {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "a b c"}}]}]}, 1),
        ("messages", {"system": "one two", "messages": [{"role": "user", "content": [{"type": "text", "text": "three"}]}]}, 3),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "a b"}]}]}]}, 2),
        ("responses", {"instructions": "one", "input": [{"role": "user", "content": [{"type": "input_text", "text": "two"}]}]}, 2),
        ("responses", {"input": [{"type": "function_call_output", "output": "x y z"}]}, 3),
        ("completions", {"prompt": ["one two", "three"]}, 3),
        ("completions", {"prompt": [5, 6, 7]}, 3),
        ("embeddings", {"input": [[1, 2], [3]]}, 3),
        ("chat", {"messages": "no list"}, 2),
        ("chat", {}, 1),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "abc " * 500}}]}]}, 1),
    ],
)  # fmt: skip
def test_the_least_that_an_input_can_be(protocol, body, least):
    assert least_input(parsed(body), protocol) == least


def test_the_least_of_a_long_prompt_is_worth_charging(counters):
    """Fifty thousand tokens that nobody counted are no gift: of English at least half is charged."""
    text = TEXTS["english"] * 100
    least = least_input(parsed(chat(text)), "chat")
    truth = max(count(text) for count in counters.values())
    assert truth // 2 < least <= min(count(text) for count in counters.values())
    assert least_text("word " * LEAST_CHARS_MAX) == least_text("word " * (LEAST_CHARS_MAX // 5)) + 1, (
        "more is not read"
    )


def test_what_was_sent_and_not_kept():
    assert least_output(0, 0) == 0
    assert least_output(5, 9) == 9, "an event with content has a token at least"
    assert least_output(2400, 1) == 300, "and may have many"
    assert estimated_text_tokens(3000) == 2000
