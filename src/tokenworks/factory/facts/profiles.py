"""Vendor profiles: what the API of a vendor or an engine accepts and returns beyond the protocol, as data.

One YAML file a profile in `vendors/`, with its sources and their dates; a deployment names one (`generic` unless it
says otherwise). The gateway lays a profile's `fields` over the protocol's own lists (`gateway/protocol/fields/`).
"""

from functools import cache
from importlib.resources import files
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tokenworks.factory.model import Protocol

GENERIC: Final = "generic"
# How a deployment that speaks chat is told to think (`gateway/translate/codec.py` says what each is).
ReasoningSwitch = Literal["effort", "thinking", "enable_thinking", "template", "reasoning", "none"]
_FORMAT: Final = "tokenworks-profile/1"
_SUFFIX: Final = ".yaml"
# libyaml's loader is ten times as fast; both give the same result.
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Source(BaseModel):
    """The source of a fact. `date` is the source's own date, if it gives one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    date: str


class Profile(BaseModel):
    """The API of a vendor or an engine.

    `fields`: by protocol and level, the fields that are accepted beyond the protocol's own list, in the form of
    `gateway/protocol/fields/*.yaml`. `max_tokens_field`: by protocol, the name of the output maximum; without one the client's field
    is sent. `stream_usage`: whether a stream is asked for usage at its end (`include_usage`), with every chunk as well
    (`continuous`), or gives usage unasked (`none`). `caps_output`: the upstream ends an answer at the end of the context by itself, so
    no maximum needs to be set. Of translated requests: `reasoning_switch` and `reasoning_field`: how reasoning is switched on, and the
    field of an assistant's message of chat in which earlier reasoning is sent back (None: in none); `system_turns`: system messages are
    accepted in the midst of a conversation; `adaptive_thinking`: models (a name may end in `*`) of messages that take no budget of
    thinking; `structured_output`: messages enforce a JSON Schema. A header's name may end in `*`. `betas`: the values of
    `anthropic-beta` that pass. `names`: words that
    are kept out of the errors that customers read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["tokenworks-profile/1"] = _FORMAT
    profile: str
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    base_urls: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    fields: dict[Protocol, dict[str, dict[str, object]]] = Field(default_factory=dict)
    max_tokens_field: dict[Protocol, str] = Field(default_factory=dict)
    stream_usage: Literal["include_usage", "continuous", "none"] = "include_usage"
    caps_output: bool = False
    reasoning_switch: ReasoningSwitch = "effort"
    reasoning_field: str | None = "reasoning_content"
    adaptive_thinking: tuple[str, ...] = ()
    structured_output: bool = False
    system_turns: bool = False
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    betas: frozenset[str] = frozenset()
    sources: tuple[Source, ...] = Field(min_length=1)


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
