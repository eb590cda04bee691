"""Counting with the model's own tokenizer, in the host's tokenizer process.

A tokenizer is a folder of `tokenizers_dir` with `tokenizer.json` as Hugging Face's library writes it, and, where it has one,
the chat template (`chat_template.jinja`, or in `tokenizer_config.json`). With its template a prompt is counted as the model
reads it; without, the text alone is counted, which is less, never more. Long texts are counted in pieces, and between any two
steps the caller's `pause` is called, which may raise to stop.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.gateway.protocol.usage import UNREADABLE
from tokenworks.kernel import Invalid

FILE: Final = "tokenizer.json"
PIECE_CHARS: Final = 32_768
# Where no space is found to cut at, tokens over the cut count twice: so many are taken off.
_CUT_TOKENS: Final = 2
_CUT_TRIES: Final = 64
_DATA: Final = b"data:"
Pause = Callable[[], None]


def _go_on() -> None:
    """Nobody waits."""


class ModelTokenizer:
    """Raises `Invalid` where the folder holds no tokenizer that can be read. Its methods may run in a thread."""

    def __init__(self, folder: Path) -> None:
        # Loaded where a deployment names a tokenizer, and nowhere else.
        from jinja2 import TemplateError  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        self._template_error = TemplateError
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / FILE))
            settings = _read_json(folder / "tokenizer_config.json")
            path = folder / "chat_template.jinja"
            text = path.read_text(encoding="utf-8") if path.exists() else settings.get("chat_template")
            self._template = None if not isinstance(text, str) else _environment().from_string(text)
        except Exception as error:  # the library raises plain exceptions of its own
            raise Invalid(
                f"{folder} holds no tokenizer that can be read: {type(error).__name__}: {error}".splitlines()[
                    0
                ]
            ) from error
        self._names = {
            name: _token(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }

    def count(self, text: str, pause: Pause = _go_on) -> int:
        """Tokens of a text, without special ones. Of a long one never more than they are."""
        tokens = at = 0
        while True:
            end, whole = _cut(text, at)
            piece = text if end - at == len(text) else text[at:end]
            tokens += len(self._tokenizer.encode(piece, add_special_tokens=False).ids)
            pause()
            if end == len(text):
                return max(tokens, min(1, len(text)))
            if not whole:
                tokens -= _CUT_TOKENS
            at = end

    def count_request(self, protocol: str, body: bytes, pause: Pause = _go_on) -> int:
        """The prompt of a request, at least 1."""
        try:
            fields = msgspec.json.decode(body)
        except UNREADABLE:
            return 1
        if not isinstance(fields, dict):
            return 1
        pause()
        if protocol in {"completions", "embeddings"}:
            given = fields.get("prompt" if protocol == "completions" else "input")
            return max(1, self._count_texts(given, pause))
        messages = _messages(protocol, fields)
        if self._template is not None:
            try:
                parts = []
                for part in self._template.generate(
                    messages=messages, tools=fields.get("tools"), add_generation_prompt=True, **self._names
                ):
                    parts.append(part)
                    pause()
                return max(1, self.count("".join(parts), pause))
            except (self._template_error, TypeError, ValueError, LookupError, AttributeError):
                pass  # a request that the template does not know: its text alone
        texts = [message["content"] for message in messages]
        if fields.get("tools"):
            texts.append(json.dumps(fields["tools"], ensure_ascii=False))
        return max(1, sum(self.count(text, pause) for text in texts))

    def _count_texts(self, given: Any, pause: Pause) -> int:
        """A text, texts, or tokens that are counted already."""
        if isinstance(given, str):
            return self.count(given, pause)
        if isinstance(given, list):
            return sum(1 if isinstance(item, int) else self._count_texts(item, pause) for item in given)
        return 0

    def count_texts(self, texts: Iterable[str], pause: Pause = _go_on) -> int:
        """Pieces of one text, as they came."""
        return self.count("".join(texts), pause)

    def count_answer(
        self, protocol: str, chunks: Iterable[bytes], *, streamed: bool, pause: Pause = _go_on
    ) -> int:
        """What an answer shows: its text, reasoning and calls."""
        data = b"".join(chunks)
        texts: dict[Any, list[str]] = {}
        for event in _events(data) if streamed else [data]:
            pause()
            try:
                content = msgspec.json.decode(event)
            except UNREADABLE:
                continue
            if isinstance(content, dict):
                for key, text in _shown(protocol, content):
                    texts.setdefault(key, []).append(text)
        return sum(self.count("".join(parts), pause) for parts in texts.values())


def _cut(text: str, at: int) -> tuple[int, bool]:
    """Where the piece from `at` ends, and whether a tokenizer would cut there, too: before a space between two words."""
    end = at + PIECE_CHARS
    if end >= len(text):
        return len(text), True
    space = end
    for _ in range(_CUT_TRIES):
        space = text.rfind(" ", at + PIECE_CHARS // 2, space)
        if space < 0:
            break
        if text[space - 1].isalnum() and text[space + 1].isalpha():
            return space, True
    return end, False


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise Invalid(f"{path} is not a JSON object")
    return content


def _token(value: Any) -> str:
    """A special token: its text, or an object with it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _environment() -> Any:
    """As the templates expect it (Hugging Face, "Chat templates"); whoever wrote one gets nothing of ours."""
    from jinja2 import TemplateError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment


def _text_of(content: Any) -> str:
    """The text of a message's content: a text, or parts of which some are text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        part if isinstance(part, str) else _text_of_part(part)
        for part in content
        if isinstance(part, str | dict)
    )


def _text_of_part(part: Mapping[str, Any]) -> str:
    """A text, what a tool was called with, or what it gave."""
    if part.get("type") == "tool_use":
        return str(part.get("name") or "") + json.dumps(part.get("input"), ensure_ascii=False)
    return str(part.get("text") or part.get("thinking") or _text_of(part.get("content")) or "")


def _messages(protocol: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Role and text of each item of a request."""
    items = fields.get("input" if protocol == "responses" else "messages")
    found: list[dict[str, Any]] = []
    before = fields.get({"messages": "system", "responses": "instructions"}.get(protocol, ""))
    if before:
        found.append({"role": "system", "content": _text_of(before)})
    if isinstance(items, str) and protocol == "responses":
        items = [{"role": "user", "content": items}]
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            text = _text_of(item.get("content")) or _text_of(item.get("output"))
            if item.get("type") in ("function_call", "custom_tool_call"):
                text = str(item.get("name") or "") + str(item.get("arguments") or item.get("input") or "")
            message = {"role": str(item.get("role") or "user"), "content": text}
            if item.get("tool_calls"):
                message["tool_calls"] = item["tool_calls"]
            found.append(message)
    return found


def _events(data: bytes) -> Iterator[bytes]:
    """The data of each event of a stream that is one line of JSON."""
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(_DATA):
            yield line[len(_DATA) :].strip()


def _shown(protocol: str, content: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """(what it is a part of, text) of a whole answer or of one event."""
    if protocol == "responses":
        if str(content.get("type")).endswith(".delta") and isinstance(content.get("delta"), str):
            yield (content.get("item_id"), content.get("content_index"), content["type"]), content["delta"]
        for at, item in enumerate(content.get("output") or ()):
            if isinstance(item, dict):
                text = _text_of(item.get("summary")) + _text_of(item.get("content"))
                called = item.get("arguments") or item.get("input") or ""
                yield at, text + (str(item.get("name") or "") + str(called) if called else "")
        return
    if protocol == "messages":
        delta = content.get("delta")
        for name in ("text", "thinking", "partial_json"):
            if isinstance(delta, dict) and isinstance(delta.get(name), str):
                yield (content.get("index"), name), delta[name]
        for at, block in enumerate(content.get("content") or ()):
            if isinstance(block, dict):
                yield at, _text_of_part(block)
        return
    for choice in content.get("choices") or ():
        if not isinstance(choice, dict):
            continue
        index = choice.get("index")
        if isinstance(choice.get("text"), str):
            yield index, choice["text"]
        said = choice.get("delta") or choice.get("message")
        if not isinstance(said, dict):
            continue
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            if isinstance(said.get(name), str):
                yield (index, name), said[name]
        for call in said.get("tool_calls") or ():
            called = call.get("function") if isinstance(call, dict) else None
            if isinstance(called, dict):
                yield (
                    (index, "call", call.get("index")),
                    str(called.get("name") or "") + str(called.get("arguments") or ""),
                )
