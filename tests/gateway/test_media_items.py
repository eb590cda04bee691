"""Items are found wherever they stand, in every protocol, and each costs its rule or the declared maximum."""

import base64
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factory.facts.test_image_size import png
from tokenworks.factory import MediaRules
from tokenworks.factory.facts.media import Fixed, Patches
from tokenworks.gateway.media_items import ITEMS_MAX, find_items, items_cost

RULES = MediaRules(
    image=(Patches(patch_px=100, patches_max=10_000),), image_max_tokens=5000, image_low_tokens=7,
    audio_tokens_per_s=10, audio_max_tokens=300, video_max_tokens=900, file_page_tokens=100, file_page_bytes_min=10,
    file_pages_max=40, item_tokens=0,
)  # fmt: skip


def b64(data):
    return base64.b64encode(data).decode()


def url(data, mime="image/png"):
    return f"data:{mime};base64,{b64(data)}"


def wav(seconds, rate=8000, *, bytes_per_s=None):
    head = struct.pack("<HHIIHH", 1, 1, rate, bytes_per_s or rate * 2, 2, 16)
    return (
        b"RIFF"
        + bytes(4)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + head
        + b"data"
        + bytes(4 + rate * 2 * seconds - 44)
    )


IMAGE = png(1000, 200)
TEXT = {"type": "text", "text": "data:image/png;base64,AAAA is only text"}


def user(*parts):
    return [{"role": "user", "content": [TEXT, *parts]}]


CASES = {
    # chat
    "image": (user({"type": "image_url", "image_url": {"url": url(IMAGE)}}), 20, 0),
    "image as text": (user({"type": "image_url", "image_url": url(IMAGE)}), 20, 0),
    "low": (user({"type": "image_url", "image_url": {"url": url(IMAGE), "detail": "low"}}), 7, 0),
    "by url": (user({"type": "image_url", "image_url": {"url": "https://img.example.com/a.png"}}), 5000, 1),
    "two": (user(*[{"type": "image_url", "image_url": {"url": url(IMAGE)}}] * 2), 40, 0),
    "wrong mime": (user({"type": "image_url", "image_url": {"url": url(IMAGE, "image/gif")}}), 5000, 1),
    "not base64": (user({"type": "image_url", "image_url": {"url": "data:image/png,plain"}}), 5000, 1),
    "nothing": (user({"type": "image_url", "image_url": {}}), 5000, 1),
    "0 x 0": (user({"type": "image_url", "image_url": {"url": url(png(0, 0))}}), 5000, 1),
    "wav": (user({"type": "input_audio", "input_audio": {"data": b64(wav(3)), "format": "wav"}}), 30, 0),
    "wav that lies": (user({"type": "input_audio", "input_audio": {"data": b64(wav(3, bytes_per_s=2**31)), "format": "wav"}}), 300, 1),
    "mp3": (user({"type": "input_audio", "input_audio": {"data": b64(bytes(6000)), "format": "mp3"}}), 60, 0),
    "opus": (user({"type": "input_audio", "input_audio": {"data": b64(bytes(60)), "format": "opus"}}), 300, 1),
    "sound by url": (user({"type": "audio_url", "audio_url": {"url": "https://a.example.com/a.wav"}}), 300, 1),
    "video": (user({"type": "video_url", "video_url": {"url": "https://v.example.com/v.mp4"}}), 900, 1),
    "frames": (user({"type": "video", "video": ["https://v.example.com/1.png"] * 2}), 900, 1),
    "file": (user({"type": "file", "file": {"filename": "a.pdf", "file_data": url(bytes(95), "application/pdf")}}), 1000, 1),
    "file by id": (user({"type": "file", "file": {"file_id": "file-1"}}), 4000, 1),
    # responses
    "input_image": ([{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": url(IMAGE), "detail": "auto"}]}], 20, 0),
    "input_image by id": ([{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}], 5000, 1),
    "input_file": ([{"role": "user", "content": [{"type": "input_file", "file_url": "https://f.example.com/f.pdf"}]}], 4000, 1),
    "screenshot": ([{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": url(IMAGE)}}], 20, 0),
    "function output": ([{"type": "function_call_output", "call_id": "1", "output": [{"type": "input_image", "image_url": url(IMAGE)}]}], 20, 0),
    # messages
    "base64": (user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(IMAGE)}}), 20, 0),
    "source url": (user({"type": "image", "source": {"type": "url", "url": "https://img.example.com/a"}}), 5000, 1),
    "document": (user({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": b64(bytes(95))}}), 1000, 1),
    "text document": (user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hello"}}), 0, 0),
    "tool result": (user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(IMAGE)}}]}), 20, 0),
    "upload": (user({"type": "container_upload", "file_id": "f"}), 4000, 1),
    # What a tool was called with is not what a model sees as an image.
    "tool use": (user({"type": "tool_use", "name": "t", "input": {"image_url": url(IMAGE)}}), 0, 0),
    "tool call": ([{"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": "{}"}, "image_url": "x"}]}], 0, 0),
    "none": ([{"role": "user", "content": "data:image/png;base64,AAAA"}], 0, 0),
}  # fmt: skip


@pytest.mark.parametrize(("content", "tokens", "unbounded"), CASES.values(), ids=CASES)
def test_what_an_item_costs(content, tokens, unbounded):
    assert items_cost(content, RULES) == (tokens, unbounded)


def test_the_dearest_rule_counts():
    rules = RULES.model_copy(update={"image": (Fixed(image_tokens=10), Fixed(image_tokens=90))})
    assert items_cost(CASES["image"][0], rules) == (90, 0)


def test_many_and_deep_items_take_bounded_work():
    many = [{"type": "image_url", "image_url": "x"}] * (ITEMS_MAX + 5)
    assert sum(1 for _ in find_items(many)) == ITEMS_MAX
    deep = [{"type": "image_url", "image_url": "x"}]
    for _ in range(2000):
        deep = [deep]
    assert list(find_items(deep)) == []


_NAMES = st.sampled_from(
    ["type", "source", "image_url", "url", "data", "detail", "format", "input_audio", "video", "file", "file_data", "media_type", "content", "x"]
)  # fmt: skip
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=20),
    st.sampled_from(["image", "document", "tool_use", "base64", "low", "wav", "mp3", "data:,", "data:image/png;base64,", url(IMAGE), "data:;base64,/9j/"]),
)  # fmt: skip
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_NAMES, inner, max_size=5)),
    max_leaves=30,
)


@settings(deadline=None)
@given(st.lists(_JSON, max_size=4))
def test_no_content_does_harm(content):
    cost = items_cost(content, MediaRules())
    found = sum(1 for _ in find_items(content))
    assert 0 <= cost.unbounded_items <= found
    assert (cost.tokens > 0) == (found > 0)
