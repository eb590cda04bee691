"""A request's body as the gateway needs it: what is asked for, what has to go, and what an upstream would fetch or look up."""

from functools import cache
from pathlib import PurePath
from typing import Any, Final

import msgspec
import structlog

from tokenworks.gateway.protocol.fields import numbers
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, invalid
from tokenworks.gateway.protocol.fields.layout import RawObject, is_canonical, members_length
from tokenworks.gateway.protocol.fields.lists import PROTOCOLS, Lists, lists_of
from tokenworks.gateway.protocol.fields.proof import Proof, Reader, Unproved
from tokenworks.gateway.protocol.fields.tools import check_choice, names_hosted
from tokenworks.gateway.protocol.fields.walk import Path, Walk, any_decoder, object_decoder, path_text

MODEL_CHARS_MAX: Final = 200
# A body of more bytes is counted before it is read: so many values that reading them would hold others up are refused.
COUNTED_BYTES: Final = 1_000_000
VALUES_MAX: Final = 400_000
_encode: Final = msgspec.json.encode
_BOM: Final = b"\xef\xbb\xbf"
_FLEX: Final = msgspec.Raw(b'"flex"')
_FLEX_PROTOCOLS: Final = frozenset({"chat", "completions", "responses"})
# Where 0 tokens of output mean something: a cache is filled, a prompt is scored. Elsewhere clients write 0 or -1 for "no maximum".
_ZERO_PROTOCOLS: Final = frozenset({"completions", "messages"})
_COLON: Final = b'":'
# What a value of a type that nobody expected makes of code that takes it for another.
_DEFECTS: Final = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
_defects_seen: Final[set[str]] = set()
log = structlog.get_logger()


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_stream_options: Final = msgspec.json.Decoder(_StreamOptions | None)


class Parsed(msgspec.Struct):
    """A request's body.

    `output_tokens`: the maximum that was asked for, None where none was, in `output_field`. `choices`: answers (n, and
    prompts times best_of). `client_usage`: the client asked for usage in the stream. `dropped`: names that go nowhere.
    `objects`: ids of things at the upstream, with the field that names them. `links`: URLs that an upstream would fetch.
    `hosted`: declared tools that the vendor would run (also in `dropped`). `text_bytes`: no more bytes than this become
    input text; inline media are not in it. `inputs`: texts of a batch. `hidden_reasoning`: it asks for reasoning, which a
    vendor may not show.
    """

    protocol: str
    body: bytes
    model: str
    stream: bool
    output_tokens: int | None
    output_field: str
    # What stands in the body under the names of the maximum, null and nonsense left out.
    maxima: dict[str, int]
    choices: int = 1
    flex: bool = False
    client_usage: bool = False
    # … and in every chunk, which engines give.
    client_usage_each: bool = False
    inputs: int = 1
    hidden_reasoning: bool = False
    dropped: tuple[str, ...] = ()
    objects: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    hosted: tuple[str, ...] = ()
    has_media: bool = False
    text_bytes: int = 0
    # The body is not sent as it came even where no deployment changes it.
    changed: bool = False
    # Its maximum is written as a whole number where it came as 100.0.
    respelled: bool = False
    # Paths that are taken out: `always` and named, or ours (`taken`) and not.
    always: tuple[Path, ...] = ()
    taken: tuple[Path, ...] = ()
    walk: Walk | None = None
    # Of a body that was proved: the profiles that list all of it (None: all of them), and its fields but the bulk.
    listed_by: frozenset[str] | None = None
    said: RawObject = {}
    whole: RawObject | None = None

    @property
    def fields(self) -> RawObject:
        """The body's fields, as bytes, each once."""
        if self.whole is None:
            self.whole = _with_bulk(self) or object_decoder.decode(self.body)
        return self.whole

    @property
    def tools(self) -> msgspec.Raw | None:
        """The field `tools`, as bytes. Of a proved body nothing is read again for it."""
        return (self.said if self.walk is None else self.fields).get("tools")

    @property
    def add_usage(self) -> bool:
        """Whether usage has to be asked for that the client did not ask for."""
        return self.stream and not self.client_usage and self.protocol in {"chat", "completions"}

    @property
    def upstream_object(self) -> str | None:
        return next((value for name, value in self.objects if name == "previous_response_id"), None)

    @property
    def content(self) -> Any:
        """The messages (or the input), decoded; None where there is nothing but text. Not for the hot path."""
        raw = (
            self.fields.get("input" if self.protocol == "responses" else "messages")
            if self.has_media
            else None
        )
        return None if raw is None else any_decoder.decode(raw)

    def walked(self) -> Walk:
        """What a walk of the body finds; a proved one is walked where a profile does not list all of it."""
        if self.walk is None:
            fields = dict(self.fields)
            self.walk = Walk(lists_of(self.protocol))
            self.walk.body(fields)
            self.whole = fields
        return self.walk


@cache
def _reader(protocol: str) -> Reader:
    return Reader(lists_of(protocol))


def warm() -> None:
    """Read the lists, so that no request waits for them."""
    for protocol in PROTOCOLS:
        _reader(protocol)


def parse_body(body: bytes, protocol: str) -> Parsed:
    """Raises `BodyError` and nothing else, whatever is in the body."""
    try:
        return _parsed(body, protocol)
    except _DEFECTS as error:
        note_defect(error, protocol)
        raise invalid("a value in the body is of a type that is not expected there") from None


def note_defect(error: Exception, protocol: str) -> None:
    """Once for each place, and without the error's words: they may be the client's."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = "" if at is None else f"{PurePath(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
    if place not in _defects_seen:
        _defects_seen.add(place)
        log.error("body.defect", protocol=protocol, error=type(error).__name__, at=place)


def _parsed(body: bytes, protocol: str) -> Parsed:
    if body[:3] == _BOM:
        body = body[3:]
    lists = lists_of(protocol)
    if len(body) > COUNTED_BYTES:
        _check_count(body)
    if not _is_spaced(body):
        try:
            return _proved(body, lists)
        except Unproved:
            pass
    try:
        fields = object_decoder.decode(body)
    except UNREADABLE as error:
        raise invalid(f"the body is not a JSON object: {error}", code="bad_request") from None
    return _walked(body, fields, lists)


def _is_spaced(body: bytes) -> bool:
    """Whether its first name is followed by a space: then it is not compact, and need not be tried."""
    after = body.find(_COLON, 0, 100) + 2
    return body[after : after + 1] == b" "


def _check_count(body: bytes) -> None:
    if body.count(b"{") + body.count(b'",') + body.count(b"],") + body.count(b'":') > VALUES_MAX:
        raise invalid(f"a body of this size has at most {VALUES_MAX} values")


def _proved(body: bytes, lists: Lists) -> Parsed:
    """A body that has to change nowhere, read at once. Raises `Unproved` and `BodyError`."""
    reader = _reader(lists.protocol)
    proof = Proof(lists)
    said, items, mixed = reader.read(body)
    if reader.bulk is not None:
        if not items:
            raise Unproved
        level = lists.levels[lists.body.rules[reader.bulk].level]
        if mixed:
            proof.mixed(items, level)
        else:
            proof.objects(items, level, 1)
    # In whatever order: nothing shorter says the same, and nothing longer is proved.
    length = len(_encode(said))
    if reader.bulk is not None:
        length += 4 + len(reader.bulk) + 1 + len(items) + members_length(items, len(body), mixed=mixed)
    if length != len(body):
        raise Unproved
    for name in said.keys() - lists.body.plain:
        proof.name(name, lists.body, (said[name],))
    if "tool_choice" in said:
        if names_hosted(said, lists):
            raise Unproved
        check_choice(said, lists, None)
    parsed = _read(body, said, lists, None)
    parsed.listed_by = proof.listed_by
    parsed.said = said
    return parsed


def _walked(body: bytes, fields: RawObject, lists: Lists) -> Parsed:
    canonical = is_canonical(fields, body)
    walk = Walk(lists)
    changed = walk.body(fields)
    check_choice(fields, lists, walk)
    parsed = _read(body, fields, lists, walk)
    parsed.walk, parsed.whole = walk, fields
    parsed.changed = parsed.changed or changed or not canonical
    parsed.always += tuple(walk.always) + tuple(path for path, _ in walk.hosted)
    parsed.hosted = tuple(path_text((*path, kind)) for path, kind in walk.hosted)
    parsed.dropped += tuple(map(path_text, walk.always)) + parsed.hosted
    parsed.objects, parsed.links = tuple(walk.objects), tuple(walk.links)
    parsed.has_media = walk.with_media
    parsed.text_bytes -= walk.media_bytes
    return parsed


_NEEDED: Final = {
    "chat": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "messages": "messages",
    "responses": "input",
}


def _read(body: bytes, fields: RawObject, lists: Lists, walk: Walk | None) -> Parsed:
    """The values that are priced. `walk` is None where the bulk is not in `fields` and was proved."""
    protocol = lists.protocol
    model = numbers.text(fields, "model")
    if not model or len(model) > MODEL_CHARS_MAX:
        raise invalid("name a model", "model")
    needed = _NEEDED[protocol]
    if needed not in fields and walk is not None:
        raise invalid(f"{needed} is missing", needed)
    parsed = Parsed(
        protocol, body, model, "stream" in fields and numbers.flag(fields, "stream"), None,
        lists.maxima[-1] if lists.maxima else "", {}, text_bytes=len(body),
    )  # fmt: skip
    if protocol in _FLEX_PROTOCOLS and fields.get("service_tier") == _FLEX:
        # It says what is wanted of us, and nothing to who serves it.
        parsed.flex, parsed.changed, parsed.taken = True, True, (("service_tier",),)
    _read_maximum(parsed, fields, lists)
    _read_counts(parsed, fields)
    if "stream_options" in fields and protocol in {"chat", "completions"}:
        options: _StreamOptions | None = numbers.typed(fields, "stream_options", _stream_options)
        if options is not None:
            parsed.client_usage = options.include_usage is True
            parsed.client_usage_each = parsed.client_usage and options.continuous_usage_stats is True
    parsed.hidden_reasoning = numbers.asks_to_think(fields)
    return parsed


def _read_counts(parsed: Parsed, fields: RawObject) -> None:
    if parsed.protocol == "completions":
        if "prompt" not in fields:
            raise invalid("prompt is missing", "prompt")
        parsed.inputs = numbers.inputs(fields, "prompt")
        parsed.choices = max(numbers.choices(fields, "n"), numbers.choices(fields, "best_of")) * parsed.inputs
    elif parsed.protocol == "embeddings":
        if "input" not in fields:
            raise invalid("input is missing", "input")
        if parsed.stream:
            raise invalid("embeddings are not streamed", "stream")
        parsed.inputs, parsed.output_tokens = numbers.inputs(fields, "input"), 0
    elif parsed.protocol == "chat":
        parsed.choices = numbers.choices(fields, "n")


def _read_maximum(parsed: Parsed, fields: RawObject, lists: Lists) -> None:
    """The output maximum. Of two that differ the smaller counts, and the other is dropped."""
    given: dict[str, int] = {}
    for name in lists.maxima:
        if name not in fields:
            continue
        value = numbers.whole(fields, name)
        if value is None:
            continue
        if value in {0, -1} and not (value == 0 and lists.protocol in _ZERO_PROTOCOLS):
            parsed.always += ((name,),)
            parsed.dropped += (name,)
            parsed.changed = True
            continue
        if not 0 <= value <= numbers.TOKENS_MAX:
            raise invalid(f"{name} is a positive number of tokens", name)
        given[name] = value
        if not bytes(fields[name]).isdigit():
            # As a float it is refused by some upstreams.
            parsed.changed = parsed.respelled = True
    if not given:
        return
    if len(given) == 1:
        ((parsed.output_field, parsed.output_tokens),) = given.items()
        parsed.maxima = given
        return
    least = min(given.values())
    # Where both say the same, the older name is the one that every engine knows.
    parsed.output_field = next(name for name in reversed(lists.maxima) if given.get(name) == least)
    parsed.output_tokens = least
    parsed.maxima = given
    parsed.dropped += tuple(name for name, value in given.items() if value != least)


def _with_bulk(parsed: Parsed) -> RawObject | None:
    """All fields of a proved body without reading its bulk again; None where its place is not plain to see."""
    bulk = _reader(parsed.protocol).bulk
    if bulk is None:
        return dict(parsed.said)
    body, key = parsed.body, b'"%b":[' % bulk.encode()
    begin = body.find(key) + len(key) - 1
    # Compact, so that its length is what the other members leave.
    length = len(body) - len(_encode(parsed.said)) - 4 - len(bulk)
    head, tail = body[: begin - len(key) + 1], body[begin + length :]
    try:
        before = object_decoder.decode(head.rstrip(b",") + b"}")
        after = object_decoder.decode(b"{" + tail.lstrip(b","))
    except UNREADABLE:
        return None
    if before.keys() & after.keys() or before | after != parsed.said:
        return None
    return before | {bulk: msgspec.Raw(body[begin : begin + length])} | after
