"""Strategies of the intermediate form of translation, and the reading of its events, for the tests of the codecs.

`carried` is a set of words: what the codec under test carries, so that reading what it wrote gives the same. A word is the path of a field
of the form (`image.detail`, `call.namespace`), the name of a field of `Request` (`top_k`), or one of these:

| word | without it |
|---|---|
| `texts` | there is at most one text in `system`, in an instruction, and in a row of a turn |
| `repeated` | turns of the two roles alternate |
| `order` | an assistant turn or an answer has its reasoning first, at most once, then its text, then its calls |
| `mixed_results` | the results in a user turn stand before its other parts |
| `both` | an answer has either text or a refusal |
| `interleaved` | a part of a stream ends before the next one begins |
| `begin.usage` | the beginning of a stream tells no usage |
"""

from functools import cache
from itertools import pairwise

import msgspec
from hypothesis import strategies as st

from tokenworks.catalog import Counts
from tokenworks.gateway.translate.form import (
    Answer,
    Audio,
    Begin,
    CallBegin,
    Delta,
    End,
    File,
    Finish,
    Image,
    Instruction,
    OutputFormat,
    PartEnd,
    Reasoning,
    ReasoningBegin,
    ReasoningOptions,
    Refused,
    RefusedBegin,
    Request,
    Signed,
    Stop,
    SummaryDelta,
    Text,
    TextBegin,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    UsageReport,
)

EVERYTHING = frozenset({
    "texts", "repeated", "order", "mixed_results", "both", "interleaved", "begin.usage",
    "text.cache", "image.url", "image.data", "image.file_id", "image.detail", "image.cache",
    "file.url", "file.data", "file.text", "file.file_id", "file.name", "file.cache", "audio",
    "reasoning", "reasoning.summary", "reasoning.signature", "reasoning.encrypted", "reasoning.item_id", "refused",
    "call.custom", "call.namespace", "call.item_id", "call.cache", "result.image", "result.file", "result.is_error", "result.cache",
    "instruction", "tool.grammar", "tool.strict", "tool.cache", "choice.allowed",
    "system", "tools", "tool_choice", "parallel_calls", "max_output_tokens", "temperature", "top_p", "top_k", "frequency_penalty",
    "presence_penalty", "seed", "stop", "format", "verbosity", "reasoning.effort", "reasoning.budget_tokens", "reasoning.enabled",
    "reasoning.adaptive", "reasoning.wish", "reasoning.wish_encrypted", "user", "safety_identifier", "prompt_cache_key", "metadata",
    "service_tier", "stream", "stream_usage", "stop_sequence", "usage.audio", "usage.hour", "answer.service_tier",
})  # fmt: skip

# Base64 of an image's, a sound's and a file's first bytes; no codec looks inside.
DATA = st.sampled_from(["iVBORw0KGgo=", "UklGRg==", "JVBERi0xLjc=", "AAAA"])
NAMES = st.text("abcdefgXYZ0123456789_-", min_size=1, max_size=12)
IDS = st.text("abcdef0123456789", min_size=4, max_size=10)
URLS = st.sampled_from(["https://media.example/a.png", "https://media.example/b?x=1&y=%20"])
# Words with a meaning in some protocol, and what is cut at the wrong place: surrogate pairs, combining marks, ends of events.
TEXTS = st.one_of(
    st.text(min_size=1, max_size=20),
    st.sampled_from(
        [
            "[DONE]",
            "data: x\n\n",
            "\u2028",
            "\U0001f98a\u0301",
            '{"a": 1}',
            "电话已接通",
            "\x00\x1f",
            "</think>",
        ]
    ),
)
JSON_OBJECTS = st.dictionaries(
    st.text(min_size=1, max_size=6), st.none() | st.booleans() | st.integers(-9, 9) | TEXTS, max_size=3
)
SCHEMAS = st.sampled_from([
    {"type": "object", "properties": {}},
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
])  # fmt: skip
_LIFETIMES = st.none() | st.sampled_from(["5m", "1h"])
_DETAILS = st.sampled_from(["auto", "low", "high"])
_FILE_NAMES = st.sampled_from(["a.pdf", "Rechnung März.pdf"])
_TEXT_ROWS = st.lists(TEXTS, min_size=1, max_size=2).map(tuple)
_LEVELS = st.sampled_from(["low", "medium", "high"])
_SUMMARIES = st.sampled_from(["auto", "concise", "detailed"])
_BUDGETS = st.integers(1024, 32000)
# A blank alone stands for reasoning that is missing.
_THOUGHTS = TEXTS.filter(str.strip)
_STOPS = st.lists(TEXTS, min_size=1, max_size=3).map(tuple)
_BOOLEANS = st.booleans()
_ARGUMENTS = JSON_OBJECTS.map(lambda value: msgspec.json.encode(value).decode())
_GRAMMARS = st.tuples(st.sampled_from(["lark", "regex"]), TEXTS)
_DESCRIPTIONS = st.none() | TEXTS
_AUDIOS = st.builds(Audio, DATA, st.sampled_from(["wav", "mp3"]))
_SOME_NAMES = st.lists(NAMES, min_size=1, max_size=3, unique=True)
_NUMBERS = st.just(0) | st.integers(0, 5000)
_POSITIVE = st.integers(1, 5000)
_TIERS = st.just("default")


@cache
def _or(absent, strategy):
    return st.just(absent) | strategy


@cache
def _always(absent):
    return st.just(absent)


def _maybe(carried, word, strategy, absent=None):
    """The strategy if the word is carried, or sometimes the absent value; else always the absent value."""
    return _or(absent, strategy) if word in carried else _always(absent)


@cache
def texts(carried):
    return st.builds(Text, TEXTS, cache=_maybe(carried, "text.cache", _LIFETIMES))


@cache
def images(carried):
    detail = _maybe(carried, "image.detail", _DETAILS)
    cache = _maybe(carried, "image.cache", _LIFETIMES)
    kinds = {
        "image.url": st.builds(Image, url=URLS, detail=detail, cache=cache),
        "image.data": st.builds(
            Image,
            data=DATA,
            media_type=st.sampled_from(["image/png", "image/jpeg"]),
            detail=detail,
            cache=cache,
        ),
        "image.file_id": st.builds(Image, file_id=IDS, detail=detail, cache=cache),
    }
    return st.one_of([strategy for word, strategy in kinds.items() if word in carried])


@cache
def files(carried):
    name = _maybe(carried, "file.name", _FILE_NAMES)
    cache = _maybe(carried, "file.cache", _LIFETIMES)
    kinds = {
        "file.url": st.builds(File, url=URLS, name=name, cache=cache),
        "file.data": st.builds(
            File, data=DATA, media_type=st.just("application/pdf"), name=name, cache=cache
        ),
        "file.text": st.builds(File, text=TEXTS, media_type=st.just("text/plain"), name=name, cache=cache),
        "file.file_id": st.builds(File, file_id=IDS, name=name, cache=cache),
    }
    return st.one_of([strategy for word, strategy in kinds.items() if word in carried])


def _has(carried, prefix):
    return any(word.startswith(prefix) for word in carried)


@st.composite
def reasonings(draw, carried):
    """Reasoning with something in it."""
    signature = draw(_maybe(carried, "reasoning.signature", IDS))
    encrypted = None if signature else draw(_maybe(carried, "reasoning.encrypted", IDS))
    summary = draw(_maybe(carried, "reasoning.summary", _TEXT_ROWS, ()))
    text = "" if summary or (encrypted and draw(_BOOLEANS)) else draw(_THOUGHTS)
    item_id = draw(_maybe(carried, "reasoning.item_id", IDS))
    return Reasoning(text, summary, signature, encrypted, item_id)


@st.composite
def tool_calls(draw, carried, tools, call_id):
    tool = draw(st.sampled_from(tools))
    arguments = draw(TEXTS if tool.custom else _ARGUMENTS)
    item_id = draw(_maybe(carried, "call.item_id", IDS))
    cache = draw(_maybe(carried, "call.cache", _LIFETIMES))
    return ToolCall(call_id, tool.name, arguments, tool.custom, tool.namespace, item_id, cache)


@st.composite
def tool_results(draw, carried, call):
    content = [draw(texts(carried))] if draw(st.integers(0, 9)) else []
    if "result.image" in carried and draw(_BOOLEANS):
        content.append(draw(images(carried)))
    if "result.file" in carried and draw(_BOOLEANS):
        content.append(draw(files(carried)))
    is_error = draw(_maybe(carried, "result.is_error", _BOOLEANS, absent=False))
    cache = draw(_maybe(carried, "result.cache", _LIFETIMES))
    return ToolResult(call.call_id, tuple(content), is_error, call.custom, cache)


@st.composite
def tools_of(draw, carried):
    """Tools with different names."""
    names = draw(_SOME_NAMES)
    return tuple(draw(_tool(carried, name)) for name in names)


@st.composite
def _tool(draw, carried, name):
    custom = draw(_BOOLEANS) if "call.custom" in carried else False
    namespace = draw(_maybe(carried, "call.namespace", NAMES)) if not custom else None
    return Tool(
        name,
        draw(_DESCRIPTIONS),
        None if custom else draw(SCHEMAS),
        None if custom else draw(_maybe(carried, "tool.strict", _BOOLEANS)),
        custom,
        draw(_maybe(carried, "tool.grammar", _GRAMMARS)) if custom else None,
        namespace,
        draw(_maybe(carried, "tool.cache", _LIFETIMES)),
    )


@st.composite
def tool_choices(draw, carried, tools):
    mode = draw(st.sampled_from(["auto", "none", "required", "tool"]))
    if mode == "tool":
        tool = draw(st.sampled_from(tools))
        return ToolChoice(mode, tool.name, tool.namespace, tool.custom)
    plain = [tool.name for tool in tools if not tool.namespace and not tool.custom]
    allowed = None
    if plain and mode in {"auto", "required"}:
        some = st.lists(st.sampled_from(plain), min_size=1, unique=True).map(tuple)
        allowed = draw(_maybe(carried, "choice.allowed", some))
    return ToolChoice(mode, allowed=allowed)


@cache
def _user_parts(carried, least):
    kinds = [texts(carried)]
    if _has(carried, "image."):
        kinds.append(images(carried))
    if _has(carried, "file."):
        kinds.append(files(carried))
    if "audio" in carried:
        kinds.append(_AUDIOS)
    return st.lists(st.one_of(kinds), min_size=least, max_size=3)


@st.composite
def _user_turn(draw, carried, calls):
    parts = draw(_user_parts(carried, 0 if calls else 1))
    results = [draw(tool_results(carried, call)) for call in calls]
    together = [*results, *parts]
    if "mixed_results" in carried and draw(_BOOLEANS):
        together = draw(st.permutations(together))
    return Turn("user", _without_rows(carried, together))


def _without_rows(carried, parts):
    """The parts, without a text that follows a text where the codec joins them."""
    if "texts" in carried:
        return tuple(parts)
    pairs = pairwise([None, *parts])
    return tuple(part for before, part in pairs if not (isinstance(before, Text) and isinstance(part, Text)))


@st.composite
def _answer_parts(draw, carried, tools, first_call):
    reasoning = [draw(reasonings(carried))] if "reasoning" in carried and draw(_BOOLEANS) else []
    said = [draw(texts(carried - {"text.cache"}))] if draw(_BOOLEANS) else []
    if "refused" in carried and ("both" in carried or not said) and draw(st.integers(0, 4)) == 0:
        said.append(Refused(draw(TEXTS)))
    count = draw(st.integers(0, 3)) if tools else 0
    calls = [draw(tool_calls(carried, tools, f"call_{first_call + at}")) for at in range(count)]
    if "order" in carried and draw(_BOOLEANS):
        more = [draw(texts(carried - {"text.cache"}))] if "texts" in carried else []
        return tuple(draw(st.permutations([*reasoning, *said, *calls, *more])))
    return (*reasoning, *said, *calls)


@st.composite
def turns_of(draw, carried, tools):
    """A conversation that ends with the user: each call has its result in the turn that follows."""
    turns, calls, made = [], [], 0
    for _ in range(draw(st.integers(0, 2))):
        turns.append(draw(_user_turn(carried, calls)))
        if "repeated" in carried and draw(st.integers(0, 3)) == 0:
            turns.append(draw(_user_turn(carried, [])))
        if "instruction" in carried and draw(st.integers(0, 3)) == 0:
            turns.append(Instruction((draw(texts(carried)),)))
        parts = draw(_answer_parts(carried, tools, made).filter(bool))
        calls = [part for part in parts if isinstance(part, ToolCall)]
        made += len(calls)
        turns.append(Turn("assistant", parts))
    turns.append(draw(_user_turn(carried, calls)))
    return tuple(turns)


def formats():
    strict = st.none() | st.booleans()
    schema = st.builds(OutputFormat, st.just("json_schema"), NAMES, st.none() | TEXTS, SCHEMAS, strict)
    return st.just(OutputFormat("json_object")) | schema


@st.composite
def reasoning_options(draw, carried):
    """An effort, or a budget (`enabled` is true), or `enabled` alone, or nothing."""
    enabled = budget = None
    effort = draw(_maybe(carried, "reasoning.effort", _LEVELS))
    if effort is None:
        budget = draw(_maybe(carried, "reasoning.budget_tokens", _BUDGETS))
        enabled = True if budget is not None else draw(_maybe(carried, "reasoning.enabled", _BOOLEANS))
    adaptive = draw(_maybe(carried, "reasoning.adaptive", _BOOLEANS, absent=False)) and budget is None
    wish = draw(_maybe(carried, "reasoning.wish", _SUMMARIES))
    encrypted = draw(_maybe(carried, "reasoning.wish_encrypted", _BOOLEANS, absent=False))
    return ReasoningOptions(True if adaptive else enabled, effort, budget, wish, adaptive, encrypted)


_PLAIN_FIELDS = {
    "max_output_tokens": st.integers(1, 100_000),
    "parallel_calls": st.booleans(),
    "temperature": st.floats(0, 2, width=16),
    "top_p": st.floats(0, 1, width=16),
    "top_k": st.integers(1, 100),
    "frequency_penalty": st.floats(-2, 2, width=16),
    "presence_penalty": st.floats(-2, 2, width=16),
    "seed": st.integers(0, 2**31),
    "format": formats(),
    "verbosity": _LEVELS,
    "user": IDS,
    "safety_identifier": IDS,
    "prompt_cache_key": IDS,
    "metadata": st.dictionaries(NAMES, IDS, min_size=1, max_size=2),
    "service_tier": st.sampled_from(["auto", "default"]),
}


@cache
def _systems(carried):
    return st.lists(texts(carried), min_size=1, max_size=2 if "texts" in carried else 1).map(tuple)


@st.composite
def requests(draw, carried):
    """A whole request of what is carried."""
    tools = draw(tools_of(carried)) if "tools" in carried and draw(_BOOLEANS) else ()
    fields = {name: draw(_maybe(carried, name, strategy)) for name, strategy in _PLAIN_FIELDS.items()}
    if not tools:
        fields["parallel_calls"] = None
    stream = draw(_maybe(carried, "stream", _BOOLEANS, absent=False))
    usage = stream and draw(_maybe(carried, "stream_usage", _BOOLEANS, absent=False))
    return Request(
        model=draw(NAMES),
        turns=draw(turns_of(carried, tools)),
        system=draw(_maybe(carried, "system", _systems(carried), ())),
        tools=tools,
        tool_choice=draw(_maybe(carried, "tool_choice", tool_choices(carried, tools))) if tools else None,
        stop=draw(_maybe(carried, "stop", _STOPS, ())),
        reasoning=draw(reasoning_options(carried)),
        stream=stream,
        stream_usage=usage,
        **fields,
    )


@st.composite
def counts(draw, carried=EVERYTHING):
    """Usage as a provider reports it: not zero altogether."""
    audio, hour = "usage.audio" in carried, "usage.hour" in carried
    return Counts(
        draw(_POSITIVE), draw(_NUMBERS), draw(_NUMBERS), draw(_NUMBERS) if audio else 0,
        draw(_POSITIVE), draw(_NUMBERS), draw(_NUMBERS) if audio else 0, draw(_NUMBERS) if hour else 0,
    )  # fmt: skip


STOPS = st.sampled_from([Stop.END, Stop.LENGTH, Stop.FILTER])


@st.composite
def answers(draw, carried, tools=None, stops=STOPS):
    """A whole answer. It stops with `TOOL` if it has calls, else with one of `stops`."""
    tools = draw(tools_of(carried)) if tools is None else tools
    parts = draw(_answer_parts(carried - {"call.cache"}, tools, 0))
    called = any(isinstance(part, ToolCall) for part in parts)
    stop = Stop.TOOL if called else draw(stops)
    sequence = draw(_maybe(carried, "stop_sequence", TEXTS)) if stop is Stop.END else None
    return Answer(
        draw(IDS), draw(NAMES), parts, Stop.SEQUENCE if sequence else stop, sequence, draw(counts(carried)), 1_790_000_000,
        draw(_maybe(carried, "answer.service_tier", _TIERS)),
    )  # fmt: skip


@st.composite
def streams(draw, carried, tools=None, stops=STOPS):
    """(an answer, its events): each text in pieces, and with `interleaved` the calls in turn."""
    answer = draw(answers(carried - {"answer.service_tier"}, tools, stops))
    first = answer.usage._replace(output=0, reasoning=0, audio_output=0)
    usage = draw(_maybe(carried, "begin.usage", st.just(first)))
    begin = Begin(answer.answer_id, answer.model, answer.created_s, usage)
    made = [draw(_events_of(part, number)) for number, part in enumerate(answer.parts)]
    plain = [
        events for part, events in zip(answer.parts, made, strict=True) if not isinstance(part, ToolCall)
    ]
    calls = [events for part, events in zip(answer.parts, made, strict=True) if isinstance(part, ToolCall)]
    if (
        "interleaved" in carried
        and len(calls) > 1
        and answer.parts[-len(calls) :] == tuple(part for part in answer.parts if isinstance(part, ToolCall))
    ):
        body = [event for events in plain for event in events] + draw(_interleaved(calls))
    else:
        body = [event for events in made for event in events]
    return answer, (begin, *body, Finish(answer.stop, answer.stop_sequence), UsageReport(answer.usage), End())


@st.composite
def _interleaved(draw, calls):
    """All calls begin in their order, then their pieces come in any order, then they end."""
    pieces = [event for events in calls for event in events[1:-1]]
    order = draw(st.permutations(range(len(calls)))) if calls else []
    by_call = [[event for event in pieces if event.part == events[0].part] for events in calls]
    mixed = []
    while any(by_call):
        for at in order:
            if by_call[at]:
                mixed.append(by_call[at].pop(0))
    return [events[0] for events in calls] + mixed + [events[-1] for events in calls]


@st.composite
def pieces_of(draw, text):
    """The text in pieces, none of them empty."""
    cuts = draw(st.lists(st.integers(1, len(text) - 1), max_size=3, unique=True)) if len(text) > 1 else []
    ends = [0, *sorted(cuts), len(text)]
    return [text[a:b] for a, b in pairwise(ends) if a < b]


@st.composite
def _events_of(draw, part, number):
    out = []
    match part:
        case Text(text):
            out.append(TextBegin(number))
        case Refused(text):
            out.append(RefusedBegin(number))
        case ToolCall(arguments=text):
            out.append(CallBegin(number, part.call_id, part.name, part.custom, part.namespace, part.item_id))
        case Reasoning(text):
            out.append(ReasoningBegin(number, part.item_id))
    if isinstance(part, Reasoning):
        for at, summary in enumerate(part.summary):
            out += [SummaryDelta(number, at, piece) for piece in draw(pieces_of(summary))]
    out += [Delta(number, piece) for piece in draw(pieces_of(text))]
    if isinstance(part, Reasoning) and (part.signature or part.encrypted):
        out.append(Signed(number, part.signature, part.encrypted))
    return [*out, PartEnd(number)]


class Assembly:
    """Rebuilds an answer from its events, and asserts that they are in an order that the form permits."""

    def __init__(self):
        self.begin = None
        self.parts = {}
        self.open = set()
        self.stop = self.stop_sequence = self.usage = None
        self.ended = False

    def take(self, events):
        for event in events:
            self._take(event)
        return self

    def _take(self, event):
        assert not self.ended, f"{event} after the end"
        assert isinstance(event, Begin) == (self.begin is None), f"{event} at the wrong place"
        match event:
            case Begin():
                self.begin, self.usage = event, event.usage
            case TextBegin(number):
                self._open(number, Text(""))
            case RefusedBegin(number):
                self._open(number, Refused(""))
            case ReasoningBegin(number, item_id):
                self._open(number, Reasoning(item_id=item_id))
            case CallBegin():
                call = ToolCall(event.call_id, event.name, "", event.custom, event.namespace, event.item_id)
                self._open(event.part, call)
            case Delta(number, text):
                part = self._part(number)
                assert text, "an empty piece"
                name = "arguments" if isinstance(part, ToolCall) else "text"
                self.parts[number] = msgspec.structs.replace(part, **{name: getattr(part, name) + text})
            case SummaryDelta(number, at, text):
                part = self._part(number)
                assert text, "an empty piece"
                assert at in {len(part.summary) - 1, len(part.summary)}, "summaries come in their order"
                before = part.summary[at] if at < len(part.summary) else ""
                self.parts[number] = msgspec.structs.replace(
                    part, summary=(*part.summary[:at], before + text)
                )
            case Signed(number, signature, encrypted):
                part = self._part(number)
                self.parts[number] = msgspec.structs.replace(part, signature=signature, encrypted=encrypted)
            case PartEnd(number):
                self._part(number)
                self.open.remove(number)
            case Finish():
                assert not self.open, "a part is open at the finish"
                assert self.stop is None, "finished twice"
                self.stop, self.stop_sequence = event.stop, event.stop_sequence
            case UsageReport(usage):
                self.usage = usage
            case End():
                assert not self.open, "a part is open at the end"
                self.ended = True
            case _:
                raise AssertionError(event)

    def _open(self, number, part):
        assert self.stop is None, "a part after the finish"
        assert number == len(self.parts), "parts are numbered in the order in which they begin"
        self.parts[number] = part
        self.open.add(number)

    def _part(self, number):
        assert number in self.open, f"part {number} is not open"
        return self.parts[number]

    def answer(self):
        assert self.begin is not None
        parts = tuple(self.parts[number] for number in sorted(self.parts))
        begin = self.begin
        return Answer(
            begin.answer_id, begin.model, parts, self.stop, self.stop_sequence, self.usage, begin.created_s
        )


def assembled(events):
    """The answer that these events tell. Asserts that the last one is `End`."""
    assembly = Assembly().take(events)
    assert assembly.ended, "the stream has no end"
    return assembly.answer()


def read_stream(reader, data):
    """The events that a codec's reader gives for a stream's bytes, read event by event as the gateway hands them over."""
    events = []
    for event in data.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = event.split(b"\n")
        name = "".join(line[6:].strip().decode() for line in lines if line.startswith(b"event:"))
        payload = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
        if payload:
            events += reader.read(name, payload)
    return [*events, *reader.finish()]
