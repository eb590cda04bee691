"""Reads a request's body: the requested values, the fields to remove, and the URLs and ids that an upstream would fetch or look up."""

from functools import cache
from pathlib import PurePath
from typing import Final

import msgspec
import structlog

from tokenworks.gateway.protocol.fields import numbers, own
from tokenworks.gateway.protocol.fields.errors import UNREADABLE, invalid
from tokenworks.gateway.protocol.fields.layout import RawObject, is_canonical, members_length
from tokenworks.gateway.protocol.fields.lists import PROTOCOLS, Lists, lists_of
from tokenworks.gateway.protocol.fields.proof import NotProven, Proof, Reader
from tokenworks.gateway.protocol.fields.scan import (
    BodyScan,
    FieldPath,
    any_decoder,
    object_decoder,
    path_text,
)
from tokenworks.gateway.protocol.fields.tools import check_choice, names_hosted

MODEL_CHARS_MAX: Final = 200
# In a body of more bytes the values are counted before it is read. With more than `VALUES_MAX` values the body is refused, since reading
# it would block the loop for too long.
COUNTED_BYTES: Final = 1_000_000
VALUES_MAX: Final = 400_000
_encode: Final = msgspec.json.encode
_BOM: Final = b"\xef\xbb\xbf"
_FLEX: Final = msgspec.Raw(b'"flex"')
_NULL: Final = msgspec.Raw(b"null")
_FLEX_PROTOCOLS: Final = frozenset({"chat", "completions", "responses"})
# Protocols in which a maximum of 0 has a meaning: a cache is filled, a prompt is scored. In the others clients write 0 or -1 for
# "no maximum".
_ZERO_PROTOCOLS: Final = frozenset({"completions", "messages"})
_COLON: Final = b'":'
# The exceptions of code that meets a value of an unexpected type.
_DEFECTS: Final = (TypeError, ValueError, LookupError, AttributeError, RecursionError)
_defects_seen: Final[set[str]] = set()
log = structlog.get_logger()


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


_stream_options: Final = msgspec.json.Decoder(_StreamOptions | None)


class Parsed(msgspec.Struct):
    """A request's body.

    `output_tokens`: the requested maximum, given in the field `output_field`; None if there is none. `choices`: the number of answers (n,
    or prompts times best_of). `client_usage`: the client requests usage in the stream. `dropped`: names that no deployment gets.
    `objects`: (field, id) of objects at the upstream. `links`: URLs that an upstream would fetch. `hosted`: declared tools that the vendor
    would run (also in `dropped`). `text_bytes`: an upper bound of the bytes of input text, without inline media. `inputs`: the number of
    texts in a batch. `hidden_reasoning`: the body requests reasoning, which a vendor may not show. `fallbacks`: models to fall back to;
    None if the body does not say. `wants_cost`: the client requests the cost in the usage. `tagged`: a field becomes a tag. `summaries`: an item of
    the input is a compaction, or asks for one.
    """

    protocol: str
    body: bytes
    model: str
    stream: bool
    output_tokens: int | None
    output_field: str
    # The maximum by each of its names in the body; null and meaningless values are left out.
    maxima: dict[str, int]
    choices: int = 1
    flex: bool = False
    client_usage: bool = False
    # The client requests usage in every chunk, as engines offer it.
    client_usage_each: bool = False
    inputs: int = 1
    hidden_reasoning: bool = False
    dropped: tuple[str, ...] = ()
    objects: tuple[tuple[str, str], ...] = ()
    links: tuple[str, ...] = ()
    hosted: tuple[str, ...] = ()
    has_media: bool = False
    text_bytes: int = 0
    # The body must be encoded again even if no deployment changes it.
    changed: bool = False
    # The maximum came as 100.0 and is sent as 100.
    respelled: bool = False
    fallbacks: tuple[str, ...] | None = None
    wants_cost: bool = False
    tagged: bool = False
    summaries: bool = False
    # The field `store` of a chat is true: its completion is to be stored here.
    stores: bool = False
    # Paths that are removed for each deployment: `cuts` are named in `dropped`, `unnamed_cuts` are fields for the gateway.
    cuts: tuple[FieldPath, ...] = ()
    unnamed_cuts: tuple[FieldPath, ...] = ()
    scan: BodyScan | None = None
    # Of a proven body: the profiles that list all of its fields (None: each profile does), and its fields without the bulk.
    listed_by: frozenset[str] | None = None
    outer_fields: RawObject = {}
    all_fields: RawObject | None = None

    @property
    def fields(self) -> RawObject:
        """The body's fields as raw JSON, each name once."""
        if self.all_fields is None:
            self.all_fields = _with_bulk(self) or object_decoder.decode(self.body)
        return self.all_fields

    @property
    def tools(self) -> msgspec.Raw | None:
        """The field `tools` as raw JSON. A proven body is not decoded again for it."""
        return (self.outer_fields if self.scan is None else self.fields).get("tools")

    @property
    def content(self) -> object:
        """The decoded messages or input; None if the body has only text. Not for the hot path."""
        raw = (
            self.fields.get("input" if self.protocol == "responses" else "messages")
            if self.has_media
            else None
        )
        return None if raw is None else any_decoder.decode(raw)

    def scanned(self) -> BodyScan:
        """The scan of the body. A proven body is scanned only if a profile does not list all of its fields."""
        if self.scan is None:
            fields = dict(self.fields)
            self.scan = BodyScan(lists_of(self.protocol))
            self.scan.body(fields)
            self.all_fields = fields
        return self.scan


@cache
def _reader(protocol: str) -> Reader:
    return Reader(lists_of(protocol))


def warm() -> None:
    """Read the lists in advance, so that no request waits for them."""
    for protocol in PROTOCOLS:
        _reader(protocol)


def parse_body(body: bytes, protocol: str) -> Parsed:
    """Read a body. Raises `BodyError` and no other exception, for any bytes."""
    try:
        return _parsed(body, protocol)
    except _DEFECTS as error:
        note_defect(error, protocol)
        raise invalid("a value in the body is of a type that is not expected there") from None


def note_defect(error: Exception, protocol: str) -> None:
    """Log a defect of this code once for each line, without the exception's text, which may contain the client's data."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    line = "" if frame is None else f"{PurePath(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"
    if line not in _defects_seen:
        _defects_seen.add(line)
        log.error("body.defect", protocol=protocol, error=type(error).__name__, at=line)


def _parsed(body: bytes, protocol: str) -> Parsed:
    if body[:3] == _BOM:
        body = body[3:]
    lists = lists_of(protocol)
    if len(body) > COUNTED_BYTES:
        check_count(body)
    if not _is_spaced(body):
        try:
            return _proven(body, lists)
        except NotProven:
            pass
    try:
        fields = object_decoder.decode(body)
    except UNREADABLE as error:
        raise invalid(f"the body is not a JSON object: {error}", code="bad_request") from None
    return _scanned(body, fields, lists)


def _is_spaced(body: bytes) -> bool:
    """True if a space follows the first name: such a body is not compact and cannot be proven."""
    after_colon = body.find(_COLON, 0, 100) + 2
    return body[after_colon : after_colon + 1] == b" "


def count_values(body: bytes) -> int:
    """About the number of values in a body, without reading it."""
    return body.count(b"{") + body.count(b'",') + body.count(b"],") + body.count(b'":')


def check_count(body: bytes) -> None:
    """Raise `BodyError` for a large body (`COUNTED_BYTES`) that has too many values to be read."""
    if count_values(body) > VALUES_MAX:
        raise invalid(f"a body of this size has at most {VALUES_MAX} values")


def _proven(body: bytes, lists: Lists) -> Parsed:
    """Read a body that needs no change, with a single typed decode. Raises `NotProven` and `BodyError`."""
    reader = _reader(lists.protocol)
    proof = Proof(lists)
    fields, items, mixed_items = reader.read(body)
    if reader.bulk is not None:
        if not items and not mixed_items:
            raise NotProven
        level = lists.levels[lists.body.rules[reader.bulk].level]
        if mixed_items:
            proof.mixed(mixed_items, level)
        else:
            proof.objects(items, level, 1)
    # The compact encoding has the least length, in any order of fields. A longer body has spaces or a name twice and is not proven.
    length = len(_encode(fields))
    if reader.bulk is not None:
        count = len(items) + len(mixed_items)
        members = members_length(mixed_items or items, len(body), mixed=bool(mixed_items))
        length += 4 + len(reader.bulk) + 1 + count + members
    if length != len(body):
        raise NotProven
    for name in fields.keys() - lists.body.plain:
        proof.name(name, lists.body, (fields[name],))
    if "tool_choice" in fields:
        if names_hosted(fields, lists):
            raise NotProven
        check_choice(fields, lists, None)
    parsed = _read(body, fields, lists, None)
    parsed.listed_by, parsed.tagged = proof.listed_by, proof.tagged
    parsed.outer_fields = fields
    return parsed


def _scanned(body: bytes, fields: RawObject, lists: Lists) -> Parsed:
    canonical = is_canonical(fields, body)
    scan = BodyScan(lists)
    changed = scan.body(fields)
    check_choice(fields, lists, scan)
    fallbacks = own.fallback_models(fields, MODEL_CHARS_MAX) if scan.own else None
    if fallbacks and fields.get("model", _NULL) == _NULL:
        # OpenRouter's clients may name all models in one list.
        fields["model"], changed = msgspec.Raw(_encode(fallbacks[0])), True
    parsed = _read(body, fields, lists, scan)
    parsed.scan, parsed.all_fields = scan, fields
    if scan.own:
        _read_own(parsed, fields, scan, fallbacks)
    parsed.tagged, parsed.summaries, parsed.stores = scan.tagged, scan.summaries, scan.stores
    parsed.changed = parsed.changed or changed or not canonical
    parsed.cuts += tuple(scan.cuts) + tuple(path for path, _ in scan.hosted)
    parsed.hosted = tuple(path_text((*path, kind)) for path, kind in scan.hosted)
    parsed.dropped += tuple(map(path_text, scan.cuts)) + parsed.hosted
    parsed.objects, parsed.links = tuple(scan.objects), tuple(scan.links)
    parsed.has_media = scan.has_media
    parsed.text_bytes -= scan.media_bytes
    return parsed


def _read_own(parsed: Parsed, fields: RawObject, scan: BodyScan, fallbacks: tuple[str, ...] | None) -> None:
    """Read the fields that are for the gateway; no upstream gets them."""
    if fallbacks is not None:
        parsed.fallbacks = tuple([name for name in fallbacks if name != parsed.model])
    parsed.wants_cost = own.wants_cost(fields)
    parsed.unnamed_cuts += tuple(scan.own)
    parsed.changed = True


_NEEDED: Final = {
    "chat": "messages",
    "completions": "prompt",
    "embeddings": "input",
    "messages": "messages",
    "responses": "input",
}


def _read(body: bytes, fields: RawObject, lists: Lists, scan: BodyScan | None) -> Parsed:
    """Read the priced values. `scan` is None for a proven body, whose bulk is not in `fields`."""
    protocol = lists.protocol
    model = numbers.text(fields, "model")
    if not model or len(model) > MODEL_CHARS_MAX:
        raise invalid("name a model", "model")
    needed = _NEEDED[protocol]
    if needed not in fields and scan is not None:
        raise invalid(f"{needed} is missing", needed)
    parsed = Parsed(
        protocol, body, model, "stream" in fields and numbers.flag(fields, "stream"), None,
        lists.maxima[-1] if lists.maxima else "", {}, text_bytes=len(body),
    )  # fmt: skip
    if protocol in _FLEX_PROTOCOLS and fields.get("service_tier") == _FLEX:
        # `flex` is a request to this gateway; the upstream does not get it.
        parsed.flex, parsed.changed, parsed.unnamed_cuts = True, True, (("service_tier",),)
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
    """Read the output maximum. If two fields give different maxima, the smaller one counts and the other is dropped."""
    given: dict[str, int] = {}
    for name in lists.maxima:
        if name not in fields:
            continue
        value = numbers.whole(fields, name)
        if value is None:
            continue
        if value in {0, -1} and not (value == 0 and lists.protocol in _ZERO_PROTOCOLS):
            parsed.cuts += ((name,),)
            parsed.dropped += (name,)
            parsed.changed = True
            continue
        if not 0 <= value <= numbers.TOKENS_MAX:
            raise invalid(f"{name} is a positive number of tokens", name)
        given[name] = value
        if not bytes(fields[name]).isdigit():
            # Some upstreams refuse a maximum that is written as a float.
            parsed.changed = parsed.respelled = True
    if not given:
        return
    if len(given) == 1:
        ((parsed.output_field, parsed.output_tokens),) = given.items()
        parsed.maxima = given
        return
    least = min(given.values())
    # If both give the same maximum, the older name is kept: each engine knows it.
    parsed.output_field = next(name for name in reversed(lists.maxima) if given.get(name) == least)
    parsed.output_tokens = least
    parsed.maxima = given
    parsed.dropped += tuple(name for name, value in given.items() if value != least)


def _with_bulk(parsed: Parsed) -> RawObject | None:
    """All fields of a proven body, without a second decode of its bulk; None if the bulk's position cannot be told from the bytes."""
    bulk = _reader(parsed.protocol).bulk
    if bulk is None:
        return dict(parsed.outer_fields)
    body, key = parsed.body, b'"%b":[' % bulk.encode()
    begin = body.find(key) + len(key) - 1
    # The body is compact, so the bulk's length is the body's length without the other members.
    length = len(body) - len(_encode(parsed.outer_fields)) - 4 - len(bulk)
    head, tail = body[: begin - len(key) + 1], body[begin + length :]
    try:
        before = object_decoder.decode(head.rstrip(b",") + b"}")
        after = object_decoder.decode(b"{" + tail.lstrip(b","))
    except UNREADABLE:
        return None
    if before.keys() & after.keys() or before | after != parsed.outer_fields:
        return None
    return before | {bulk: msgspec.Raw(body[begin : begin + length])} | after
