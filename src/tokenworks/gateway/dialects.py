"""What each protocol's request says that moves price or state.

Bodies are read at their top level only: values that are not needed stay bytes. What would move price or upstream state
and is not priced here is refused by name (`_REFUSED`); unknown harmless fields pass.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tokenworks.gateway.errors import Refusal
from tokenworks.gateway.usage import TOKENS_MAX, UNREADABLE

CHOICES_MAX: Final = 128
_top: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any: Final = msgspec.json.Decoder()
_string: Final = msgspec.json.Decoder(str | None)
_number: Final = msgspec.json.Decoder(int | None)
_truth: Final = msgspec.json.Decoder(bool | None)
_items: Final = msgspec.json.Decoder(list[msgspec.Raw])
_encode: Final = msgspec.json.encode

RawBody = dict[str, msgspec.Raw]


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    role: str | None = None
    content: msgspec.Raw = msgspec.Raw(b"null")


_item: Final = msgspec.json.Decoder(_Item)


_FLEX: Final = msgspec.Raw(b'"flex"')
_FLEX_PROTOCOLS: Final = frozenset({"chat", "completions", "responses"})


class BodyError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def _invalid(message: str, param: str | None = None, code: str = "invalid_body") -> BodyError:
    return BodyError(Refusal(400, code, message, param=param))


class Parsed(msgspec.Struct, gc=False):
    """A request's body as the gateway needs it."""

    fields: RawBody
    canonical: bool
    model: str
    stream: bool
    output_tokens: int | None
    output_field: str
    choices: int = 1
    add_usage: bool = False
    upstream_object: str | None = None
    # It may wait for the cheapest deployment.
    flex: bool = False


def parse_body(body: bytes, protocol: str) -> Parsed:
    """Raises `BodyError`."""
    try:
        fields = _top.decode(body)
    except UNREADABLE as error:
        raise _invalid(f"the body is not a JSON object: {error}", code="bad_request") from None
    model = _text(fields, "model")
    if not model or len(model) > 200:
        raise _invalid("name a model", "model")
    stream = "stream" in fields and _flag(fields, "stream")
    canonical = _is_canonical(fields, len(body))
    flex = protocol in _FLEX_PROTOCOLS and fields.get("service_tier") == _FLEX
    if flex:
        # It says what is wanted of us, and nothing to who serves it.
        del fields["service_tier"]
        canonical = False
    parsed = _DIALECTS[protocol](fields, canonical, model, stream)
    if flex:
        parsed.flex = True
    return parsed


def _is_canonical(fields: RawBody, length: int) -> bool:
    """Whether the body has its fields once, and nothing between them but the usual separators.

    A field that is there twice could mean one thing to us and another upstream. Two layouts (compact, and Python's
    default) leave no room for it; any other body is written anew from what we read.
    """
    count = len(fields)
    content = 2 + 2 * count + sum(map(len, fields)) + sum(map(len, fields.values()))
    return length in {content + 2 * count - 1, content + 4 * count - 2}


def render_body(parsed: Parsed, body: bytes, changes: dict[str, Any] | None) -> bytes:
    """The body for upstream: as it came where nothing changes, and with new fields before the others where some are
    added; else written anew.
    """
    if parsed.canonical:
        if not changes:
            return body
        if parsed.fields.keys().isdisjoint(changes):
            return b"%b,%b" % (_encode(changes)[:-1], body[1:])
    fields: dict[str, Any] = dict(parsed.fields)
    if changes:
        fields.update(changes)
    return _encode(fields)


def _decode(raw: msgspec.Raw, name: str) -> Any:
    try:
        return _any.decode(raw)
    except UNREADABLE as error:
        raise _invalid(f"{name}: {error}", name) from None


def _typed(fields: RawBody, name: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    """A field's value, None where it is absent or null."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise _invalid(f"{name} is of the wrong type", name) from None
    except UNREADABLE as error:
        raise _invalid(f"{name}: {error}", name) from None


def _text(fields: RawBody, name: str) -> str | None:
    value: str | None = _typed(fields, name, _string)
    return value


def _flag(fields: RawBody, name: str) -> bool:
    return bool(_typed(fields, name, _truth))


def _tokens(fields: RawBody, name: str) -> int | None:
    if name not in fields:
        return None
    value: int | None = _typed(fields, name, _number)
    if value is not None and not 0 < value <= TOKENS_MAX:
        raise _invalid(f"{name} is a positive number of tokens", name)
    return value


def _choices(fields: RawBody, name: str) -> int:
    if name not in fields:
        return 1
    value: int | None = _typed(fields, name, _number)
    if value is None:
        return 1
    if not 0 < value <= CHOICES_MAX:
        raise _invalid(f"{name} is 1 to {CHOICES_MAX}", name)
    return value


# Fields that move price or upstream state and are not priced here; a value among those given is harmless.
_REFUSED: Final[dict[str, dict[str, tuple[Any, ...]]]] = {
    "chat": {
        "web_search_options": (None,), "service_tier": (None, "auto", "default", "standard"), "store": (None, False),
        "prediction": (None,), "audio": (None,), "plugins": (None, []), "search_parameters": (None,),
        "extra_body": (None, {}), "models": (None, []), "route": (None,), "provider": (None, {}),
    },
    "completions": {"service_tier": (None, "auto", "default", "standard")},
    "embeddings": {"service_tier": (None, "auto", "default", "standard")},
    "messages": {
        "service_tier": (None, "auto", "standard_only"), "container": (None,), "mcp_servers": (None, []), "speed": (None, "standard"),
        "inference_geo": (None,),
    },
    "responses": {
        "service_tier": (None, "auto", "default", "standard"), "background": (None, False), "conversation": (None,),
        "prompt": (None,), "include_obfuscation": (None, False),
    },
}  # fmt: skip
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
# Anthropic's own tools that run at the client; those that run at the vendor cost extra and are refused.
_CLIENT_TOOLS_ANTHROPIC: Final = ("bash_", "text_editor_", "computer_", "memory_")


def _refuse_unpriced(fields: RawBody, protocol: str) -> None:
    refused = _REFUSED[protocol]
    if refused.keys().isdisjoint(fields):
        return
    for name, harmless in refused.items():
        raw = fields.get(name)
        if raw is not None:
            value = _decode(raw, name)
            if not any(value == harm and type(value) is type(harm) for harm in harmless):
                raise _invalid(
                    f"{name} would move the price or the upstream's state, and is not sold here",
                    name,
                    "unpriced_field",
                )


def _refuse_server_tools(fields: RawBody, protocol: str) -> None:
    raw = fields.get("tools")
    if raw is None:
        return
    tools = _decode(raw, "tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = (
            tool.get("type", "function" if protocol != "messages" else "custom")
            if isinstance(tool, dict)
            else None
        )
        if kind in _CLIENT_TOOLS or (
            protocol == "messages" and (kind is None or str(kind).startswith(_CLIENT_TOOLS_ANTHROPIC))
        ):
            continue
        raise _invalid(
            f"tools of type {kind!r} run at the vendor and are not sold here", "tools", "unpriced_field"
        )


def _must_ask_usage(fields: RawBody) -> bool:
    """Whether a stream's client did not ask for usage, so that the gateway has to. Refuses what it can't read."""
    raw = fields.get("stream_options")
    options = None if raw is None else _decode(raw, "stream_options")
    if options is None:
        return True
    if not isinstance(options, dict):
        raise _invalid("stream_options is of the wrong type", "stream_options")
    return options.get("include_usage") is not True


def _chat(fields: RawBody, canonical: bool, model: str, stream: bool) -> Parsed:
    _refuse_unpriced(fields, "chat")
    if "tools" in fields:
        _refuse_server_tools(fields, "chat")
    if "messages" not in fields:
        raise _invalid("messages is missing", "messages")
    name, output = "max_tokens", _tokens(fields, "max_tokens")
    if "max_completion_tokens" in fields:
        newer = _tokens(fields, "max_completion_tokens")
        if newer is not None:
            if output is not None:
                raise _invalid("give max_tokens or max_completion_tokens, not both", "max_tokens")
            name, output = "max_completion_tokens", newer
    add_usage = _must_ask_usage(fields) if stream or "stream_options" in fields else False
    return Parsed(fields, canonical, model, stream, output, name, _choices(fields, "n"), stream and add_usage)


def _completions(fields: RawBody, canonical: bool, model: str, stream: bool) -> Parsed:
    _refuse_unpriced(fields, "completions")
    raw = fields.get("prompt")
    if raw is None:
        raise _invalid("prompt is missing", "prompt")
    prompt = _decode(raw, "prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    choices = max(_choices(fields, "n"), _choices(fields, "best_of")) * prompts
    add_usage = _must_ask_usage(fields) if stream or "stream_options" in fields else False
    return Parsed(
        fields, canonical, model, stream, _tokens(fields, "max_tokens"), "max_tokens", choices, stream and add_usage
    )  # fmt: skip


def _embeddings(fields: RawBody, canonical: bool, model: str, stream: bool) -> Parsed:
    _refuse_unpriced(fields, "embeddings")
    if "input" not in fields:
        raise _invalid("input is missing", "input")
    if stream:
        raise _invalid("embeddings are not streamed", "stream")
    return Parsed(fields, canonical, model, stream=False, output_tokens=0, output_field="")


def _messages(fields: RawBody, canonical: bool, model: str, stream: bool) -> Parsed:
    _refuse_unpriced(fields, "messages")
    _refuse_server_tools(fields, "messages")
    if "messages" not in fields:
        raise _invalid("messages is missing", "messages")
    return Parsed(fields, canonical, model, stream, _tokens(fields, "max_tokens"), "max_tokens")


def _responses(fields: RawBody, canonical: bool, model: str, stream: bool) -> Parsed:
    _refuse_unpriced(fields, "responses")
    _refuse_server_tools(fields, "responses")
    if "input" not in fields:
        raise _invalid("input is missing", "input")
    previous = _text(fields, "previous_response_id")
    return Parsed(
        fields, canonical, model, stream, _tokens(fields, "max_output_tokens"), "max_output_tokens", upstream_object=previous
    )  # fmt: skip


_DIALECTS: Final[dict[str, Callable[[RawBody, bool, str, bool], Parsed]]] = {
    "chat": _chat,
    "completions": _completions,
    "embeddings": _embeddings,
    "messages": _messages,
    "responses": _responses,
}


def is_prompt(parsed: Parsed, protocol: str) -> bool:
    """Whether a person asks: the last item is the user's, and not a tool's result that the request goes on with."""
    name = "input" if protocol == "responses" else "messages"
    raw = parsed.fields.get(name)
    if raw is None or not bytes(raw).startswith(b"["):
        return True  # a text, or a protocol without items
    try:
        items = _items.decode(raw)
        if not items:
            return True
        last = _item.decode(items[-1])
        if protocol == "responses":
            return last.type in {None, "message"} and last.role in {None, "user"}
        if last.role != "user":
            return False
        if protocol == "messages" and bytes(last.content).startswith(b"["):
            blocks = _items.decode(last.content)
            return not blocks or _item.decode(blocks[-1]).type != "tool_result"
    except UNREADABLE:
        return True
    return True


class _Effort(msgspec.Struct):
    effort: str | None = None


_effort: Final = msgspec.json.Decoder(_Effort)


def asked_effort(parsed: Parsed) -> str | None:
    """How much thinking a client asks for, as it says it."""
    raw = parsed.fields.get("reasoning_effort")
    try:
        if raw is not None:
            said: str | None = _string.decode(raw)
            return said
        nested = parsed.fields.get("reasoning")
        return None if nested is None else _effort.decode(nested).effort
    except UNREADABLE:
        return None


def count_tools(parsed: Parsed) -> int:
    raw = parsed.fields.get("tools")
    if raw is None:
        return 0
    try:
        return len(_items.decode(raw))
    except UNREADABLE:
        return 0


def asked_text(parsed: Parsed, protocol: str) -> str:
    """What a person asks last, as text; empty where nothing can be read."""
    raw = parsed.fields.get({"responses": "input", "completions": "prompt"}.get(protocol, "messages"))
    if raw is None:
        return ""
    try:
        if protocol == "completions" or not bytes(raw).startswith(b"["):
            value = _any.decode(raw)
            return value if isinstance(value, str) else " ".join(v for v in value if isinstance(v, str))
        for item in reversed(_items.decode(raw)):
            last = _item.decode(item)
            if last.role in {None, "user"}:
                content = _any.decode(last.content)
                if isinstance(content, str):
                    return content
                if isinstance(content, list):
                    texts = (part.get("text") for part in content if isinstance(part, dict))
                    return " ".join(text for text in texts if isinstance(text, str))
    except (*UNREADABLE, TypeError):
        return ""
    return ""
