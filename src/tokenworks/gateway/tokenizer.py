"""Counts tokens with a model's own tokenizer, in the host's tokenizer process.

A tokenizer is a folder of `tokenizers_dir` with a `tokenizer.json` in the format of Hugging Face's library and, optionally, a chat
template (`chat_template.jinja`, or in `tokenizer_config.json`). With a template a prompt is counted as the model reads it; without one
only its text is counted, which is never more. Long texts are counted in pieces. Between two steps the caller's `pause` is called, which
may raise an exception to stop the count.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from tokenworks.gateway.protocol.usage import UNREADABLE
from tokenworks.kernel import Invalid

FILE: Final = "tokenizer.json"
PIECE_CHARS: Final = 32_768
# If a text is cut inside a word, the tokens at the cut may be counted twice: so many are subtracted.
_CUT_TOKENS: Final = 2
_CUT_TRIES: Final = 64
_DATA: Final = b"data:"
Pause = Callable[[], None]
_Fields = Mapping[str, object]


class _Template(Protocol):
    """The part of a Jinja template that is used here."""

    def generate(self, **variables: object) -> Iterator[str]: ...


def _no_pause() -> None:
    """The pause of a caller that never stops a count."""


class ModelTokenizer:
    """The tokenizer in a folder. The constructor raises `Invalid` if the folder has no readable tokenizer. The methods may run in a
    thread.
    """

    def __init__(self, folder: Path) -> None:
        # Imported only in processes in which a deployment names a tokenizer.
        from jinja2 import TemplateError  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        self._template_error = TemplateError
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / FILE))
            settings = _read_json(folder / "tokenizer_config.json")
            path = folder / "chat_template.jinja"
            text = path.read_text(encoding="utf-8") if path.exists() else settings.get("chat_template")
            self._template = _template(text) if isinstance(text, str) else None
        except Exception as error:  # the library raises plain `Exception`s
            raise Invalid(
                f"{folder} holds no tokenizer that can be read: {type(error).__name__}: {error}".splitlines()[
                    0
                ]
            ) from error
        self._special_tokens = {
            name: _token(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
        }

    def count(self, text: str, pause: Pause = _no_pause) -> int:
        """The tokens of a text, without special tokens. The count of a long text may be too small, but never too large."""
        tokens = at = 0
        while True:
            end, exact = _cut(text, at)
            piece = text if end - at == len(text) else text[at:end]
            tokens += len(self._tokenizer.encode(piece, add_special_tokens=False).ids)
            pause()
            if end == len(text):
                return max(tokens, min(1, len(text)))
            if not exact:
                tokens -= _CUT_TOKENS
            at = end

    def count_request(self, protocol: str, body: bytes, pause: Pause = _no_pause) -> int:
        """The tokens of a request's prompt, at least 1."""
        try:
            fields = msgspec.json.decode(body)
        except UNREADABLE:
            return 1
        if not isinstance(fields, dict):
            return 1
        pause()
        if protocol in {"completions", "embeddings"}:
            prompt = fields.get("prompt" if protocol == "completions" else "input")
            return max(1, self._count_texts(prompt, pause))
        messages = _messages(protocol, fields)
        if self._template is not None:
            try:
                parts = []
                for part in self._template.generate(
                    messages=messages,
                    tools=fields.get("tools"),
                    add_generation_prompt=True,
                    **self._special_tokens,
                ):
                    parts.append(part)
                    pause()
                return max(1, self.count("".join(parts), pause))
            except (self._template_error, TypeError, ValueError, LookupError, AttributeError):
                pass  # the template does not accept the request: only its text is counted
        texts = [str(message["content"]) for message in messages]
        if fields.get("tools"):
            texts.append(json.dumps(fields["tools"], ensure_ascii=False))
        return max(1, sum(self.count(text, pause) for text in texts))

    def _count_texts(self, prompt: object, pause: Pause) -> int:
        """The tokens of a text, of several texts, or of a list of token numbers."""
        if isinstance(prompt, str):
            return self.count(prompt, pause)
        if isinstance(prompt, list):
            return sum(1 if isinstance(item, int) else self._count_texts(item, pause) for item in prompt)
        return 0

    def count_texts(self, texts: Iterable[str], pause: Pause = _no_pause) -> int:
        """The tokens of one text that is given in pieces."""
        return self.count("".join(texts), pause)

    def count_answer(
        self, protocol: str, chunks: Iterable[bytes], *, streamed: bool, pause: Pause = _no_pause
    ) -> int:
        """The tokens of an answer's visible output: its text, reasoning and tool calls."""
        data = b"".join(chunks)
        texts: dict[object, list[str]] = {}
        for event in _events(data) if streamed else [data]:
            pause()
            try:
                content = msgspec.json.decode(event)
            except UNREADABLE:
                continue
            if isinstance(content, dict):
                for key, text in _visible_texts(protocol, content):
                    texts.setdefault(key, []).append(text)
        return sum(self.count("".join(parts), pause) for parts in texts.values())


def _cut(text: str, at: int) -> tuple[int, bool]:
    """(end of the piece that begins at `at`, whether a tokenizer cuts there, too). The best cut is before a space between two words."""
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


def _read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise Invalid(f"{path} is not a JSON object")
    return content


def _token(value: object) -> str:
    """The text of a special token, which is given as a text or as an object with the text."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _template(text: str) -> _Template:
    """A chat template in the environment that Hugging Face documents ("Chat templates"). The sandbox gives a template no access to
    this process.
    """
    from jinja2 import TemplateError  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(text)


def _text_of(content: object) -> str:
    """The text of a message's content, which is a text or a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(
        part if isinstance(part, str) else _text_of_part(part)
        for part in content
        if isinstance(part, str | dict)
    )


def _text_of_part(part: _Fields) -> str:
    """The text of a part: a text, the name and arguments of a tool call, or a tool's result."""
    if part.get("type") == "tool_use":
        return str(part.get("name") or "") + json.dumps(part.get("input"), ensure_ascii=False)
    return str(part.get("text") or part.get("thinking") or _text_of(part.get("content")) or "")


def _messages(protocol: str, fields: _Fields) -> list[dict[str, object]]:
    """The role and text of each item of a request, and its tool calls."""
    items = fields.get("input" if protocol == "responses" else "messages")
    messages: list[dict[str, object]] = []
    system = fields.get({"messages": "system", "responses": "instructions"}.get(protocol, ""))
    if system:
        messages.append({"role": "system", "content": _text_of(system)})
    if isinstance(items, str) and protocol == "responses":
        items = [{"role": "user", "content": items}]
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict):
            text = _text_of(item.get("content")) or _text_of(item.get("output"))
            if item.get("type") in ("function_call", "custom_tool_call"):
                text = str(item.get("name") or "") + str(item.get("arguments") or item.get("input") or "")
            message: dict[str, object] = {"role": str(item.get("role") or "user"), "content": text}
            if item.get("tool_calls"):
                message["tool_calls"] = item["tool_calls"]
            messages.append(message)
    return messages


def _events(data: bytes) -> Iterator[bytes]:
    """The data of a stream's events, each of which is one line of JSON."""
    for line in data.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(_DATA):
            yield line[len(_DATA) :].strip()


def _visible_texts(protocol: str, content: _Fields) -> Iterator[tuple[object, str]]:
    """(the channel of a text, the text) for each visible text of a whole answer or of one event."""
    if protocol == "responses":
        return _texts_of_responses(content)
    return _texts_of_messages(content) if protocol == "messages" else _texts_of_chat(content)


def _list_of(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _texts_of_responses(content: _Fields) -> Iterator[tuple[object, str]]:
    kind, delta = content.get("type"), content.get("delta")
    if str(kind).endswith(".delta") and isinstance(delta, str):
        yield (content.get("item_id"), content.get("content_index"), kind), delta
    for at, item in enumerate(_list_of(content.get("output"))):
        if isinstance(item, dict):
            text = _text_of(item.get("summary")) + _text_of(item.get("content"))
            arguments = item.get("arguments") or item.get("input") or ""
            yield at, text + (str(item.get("name") or "") + str(arguments) if arguments else "")


def _texts_of_messages(content: _Fields) -> Iterator[tuple[object, str]]:
    delta = content.get("delta")
    for name in ("text", "thinking", "partial_json"):
        if isinstance(delta, dict) and isinstance(delta.get(name), str):
            yield (content.get("index"), name), delta[name]
    for at, block in enumerate(_list_of(content.get("content"))):
        if isinstance(block, dict):
            yield at, _text_of_part(block)


def _texts_of_chat(content: _Fields) -> Iterator[tuple[object, str]]:
    for choice in _list_of(content.get("choices")):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index")
        if isinstance(choice.get("text"), str):
            yield index, choice["text"]
        delta = choice.get("delta") or choice.get("message")
        if not isinstance(delta, dict):
            continue
        for name in ("content", "reasoning_content", "reasoning", "refusal"):
            if isinstance(delta.get(name), str):
                yield (index, name), delta[name]
        for call in _list_of(delta.get("tool_calls")):
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(call, dict) and isinstance(function, dict):
                arguments = str(function.get("arguments") or "")
                yield (index, "call", call.get("index")), str(function.get("name") or "") + arguments
