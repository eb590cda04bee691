"""Vendor profiles: where a vendor or an engine serves, how it is called, and what it accepts and returns beyond the protocol, as data.

One YAML file a profile in `vendors/`, with its sources and their dates; a deployment names one (`generic` unless it
says otherwise). The gateway lays a profile's `fields` over the protocol's own lists (`gateway/protocol/fields/`). A fact that is
absent is not known.
"""

from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenworks.factory.model import Protocol

GENERIC: Final = "generic"
_FORMAT: Final = "tokenworks-profile/1"
_SUFFIX: Final = ".yaml"
# libyaml's loader is ten times as fast; both give the same result.
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# What a path belongs to: a protocol, the count of a prompt's tokens, the list of models, the compaction of a conversation.
Endpoint = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "count_tokens",
    "input_tokens",
    "models",
    "compact",
]
ProfileKind = Literal["vendor", "aggregator", "engine"]
# The kind of an error by its code: the kinds of a fault, `context` (the request is longer than the context), and `credential`.
CodeKind = Literal["quota", "rate", "overloaded", "moderation", "context", "client", "server", "credential"]
ReasoningSwitch = Literal["effort", "thinking", "enable_thinking", "template", "reasoning", "none"]
_HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
_HeaderTemplate = Annotated[str, Field(pattern=r"^[ -~]{1,200}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """The source of a fact. `date` is the source's own date, if it gives one."""

    source: str
    date: str


class BaseUrl(_Frozen):
    """A base URL as the vendor prints it, with the protocols that it speaks. `{word}` in it stands for what only the operator knows.

    `paths`: of endpoints whose path is not `Deployment.path`'s, below the base URL. `compact`: the
    vendor compacts conversations, by this path and by an item `compaction_trigger`; without it, it does not. `auth`: of this base URL,
    where it is not the profile's. `plan`: a tariff with a base URL of its own (a coding plan); it is never taken unasked.
    """

    url: str
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "global"
    protocols: tuple[Protocol, ...] = Field(min_length=1)
    paths: dict[Endpoint, str] = Field(default_factory=dict)
    auth: dict[_HeaderName, _HeaderTemplate] | None = None
    plan: str | None = None

    @property
    def is_template(self) -> bool:
        """True if the operator has to fill in a part of the URL."""
        return "{" in self.url


class UsageExample(_Frozen):
    """Usage as the vendor reports it, and the tokens of each class that are read from it; classes that are left out have none."""

    protocol: Protocol
    usage: dict[str, object]
    counts: dict[str, int]


class UsageFacts(_Frozen):
    """How the vendor reports usage: the fields of each class as paths, and where in a stream (`where`). `include_usage`: whether a
    stream has to be asked for it. `reasoning_beside`: reasoning is not a part of the completion's tokens.
    """

    include_usage: Literal["needed", "accepted", "no_effect", "refused"] | None = None
    where: Literal["own_chunk", "with_finish", "start_and_delta", "last_chunk"] | None = None
    cached: tuple[str, ...] = ()
    cache_write: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = ()
    reasoning_beside: bool = False
    examples: tuple[UsageExample, ...] = ()


class ErrorExample(_Frozen):
    """An error as the vendor sends it, and the kind as which it is read (`context` is a fault of the client's)."""

    status: int = Field(ge=100, le=599)
    body: dict[str, object]
    kind: CodeKind


class ErrorFacts(_Frozen):
    """The shape of errors, and the kinds of codes that say nothing by their words (`1302`); other codes are read by their words."""

    shape: str | None = None
    codes: dict[str, CodeKind] = Field(default_factory=dict)
    examples: tuple[ErrorExample, ...] = ()


class HeaderFacts(_Frozen):
    """Headers of answers: what is left of the vendor's limits, when to try again, and the vendor's id of the request."""

    rate_limit: tuple[str, ...] = ()
    retry: str | None = None
    request_id: str | None = None


class Profile(_Frozen):
    """The API of a vendor or an engine.

    `title`: its name in print. `base_urls`: the first one of a region is the default. `auth`: the headers that carry the credential;
    `{key}` stands for the credential, `{1}` to `{9}` for its parts between spaces; None: `authorization: Bearer`, and `x-api-key` as
    well for messages; empty: no credential is needed. `model_prefix`: what stands before a model's name in requests.

    `fields`: by protocol and level, the fields that are accepted beyond the protocol's own list, in the form of
    `gateway/protocol/fields/*.yaml`. `refused`: by protocol, fields of the body that the vendor refuses, with the reason; they are
    removed and named. `max_tokens_field`: by protocol, the name of the output maximum; without one the client's field
    is sent. `stream_usage`: whether a stream is asked for usage at its end (`include_usage`), with every chunk as well
    (`continuous`), or gives usage unasked (`none`). `caps_output`: the upstream ends an answer at the end of the context by itself, so
    no maximum needs to be set. `hides_reasoning`: reasoning is charged and not shown in a stream. A header's name may end in `*`.
    `betas`: the values of `anthropic-beta` that pass. `names`: words that are kept out of the errors that customers read.
    `notes`: facts that nothing here acts upon.

    Of translated requests: `reasoning_switch` and `reasoning_field`: how reasoning is switched on, and the field of an assistant's message
    of chat in which earlier reasoning is sent back (None: in none); `system_turns`: system messages are accepted in the midst of a
    conversation; `adaptive_thinking`: models (a name may end in `*`) of messages that take no budget of thinking; `structured_output`:
    messages enforce a JSON Schema.
    """

    format: Literal["tokenworks-profile/1"] = _FORMAT
    profile: str
    title: str = ""
    kind: ProfileKind = "vendor"
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    base_urls: tuple[BaseUrl, ...] = ()
    auth: dict[_HeaderName, _HeaderTemplate] | None = None
    model_prefix: str = ""
    include: tuple[str, ...] = ()
    fields: dict[Protocol, dict[str, dict[str, object]]] = Field(default_factory=dict)
    refused: dict[Protocol, dict[str, str]] = Field(default_factory=dict)
    max_tokens_field: dict[Protocol, str] = Field(default_factory=dict)
    stream_usage: Literal["include_usage", "continuous", "none"] = "include_usage"
    caps_output: bool = False
    hides_reasoning: bool = False
    reasoning_switch: ReasoningSwitch = "effort"
    reasoning_field: str | None = "reasoning_content"
    adaptive_thinking: tuple[str, ...] = ()
    structured_output: bool = False
    system_turns: bool = False
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    betas: frozenset[str] = frozenset()
    usage: UsageFacts = UsageFacts()
    errors: ErrorFacts = ErrorFacts()
    headers: HeaderFacts = HeaderFacts()
    notes: tuple[str, ...] = ()
    sources: tuple[Source, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_base_url_of_each(self) -> "Profile":
        urls = [base.url for base in self.base_urls]
        if len(urls) != len(set(urls)):
            raise ValueError("a base URL is named twice")
        return self

    @cached_property
    def error_codes(self) -> dict[str, CodeKind]:
        """The kinds of codes, with those of the included profiles; a code on which two of them disagree is left out."""
        found: dict[str, CodeKind] = {}
        torn: set[str] = set()
        for name in self.include:
            for code, kind in load_profile(name).errors.codes.items():
                if found.setdefault(code, kind) != kind:
                    torn.add(code)
        kept = {code: kind for code, kind in found.items() if code not in torn}
        return kept | self.errors.codes

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions of the base URLs that are taken unasked, in order."""
        return tuple(dict.fromkeys(base.region for base in self.base_urls if base.plan is None))


@cache
def profile_names() -> tuple[str, ...]:
    """The names of all shipped profiles, in order."""
    folder = files("tokenworks.factory") / "vendors"
    return tuple(
        sorted(path.name.removesuffix(_SUFFIX) for path in folder.iterdir() if path.name.endswith(_SUFFIX))
    )


@cache
def load_profile(name: str) -> Profile:
    """The profile of this name. Raises `KeyError` if there is none."""
    if name not in profile_names():
        raise KeyError(name)
    text = (files("tokenworks.factory") / "vendors" / (name + _SUFFIX)).read_text(encoding="utf-8")
    return Profile.model_validate(yaml.load(text, Loader=LOADER))  # noqa: S506  (a safe loader)


def profile_of(name: str) -> Profile:
    """A deployment's profile; the generic one if a newer release wrote a name that this release does not have."""
    return load_profile(name if name in profile_names() else GENERIC)


def thinks_adaptively(profile: Profile, model: str) -> bool:
    """True if a model takes no budget of thinking and decides by itself how much it thinks."""
    return any(
        model.startswith(name[:-1]) if name.endswith("*") else model == name
        for name in profile.adaptive_thinking
    )


def max_tokens_field(
    profile: Profile, protocol: Protocol, own: str | None = None, *, asked: str | None = None
) -> str | None:
    """The field that carries the output maximum: the deployment's own, else the profile's, else the one that the client sent."""
    if own is not None and protocol == "chat":
        return own
    return profile.max_tokens_field.get(protocol) or asked
