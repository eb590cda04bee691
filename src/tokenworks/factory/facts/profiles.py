"""Vendor profiles: what a vendor's or an engine's API takes and tells beyond the protocol, as data.

One YAML file a profile in `vendors/`, with its sources and their dates; a deployment names one (`generic` unless it
says otherwise). The gateway lays a profile's `fields` over the protocol's own lists (`gateway/protocol/fields/`).
"""

from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tokenworks.factory.model import Protocol

GENERIC: Final = "generic"
_FORMAT: Final = "tokenworks-profile/1"
_SUFFIX: Final = ".yaml"
# libyaml's loader is ten times as fast; both load the same.
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Source(BaseModel):
    """Where a fact is from. `date` is the source's own, as far as it gives one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    date: str


class Profile(BaseModel):
    """What is known of a vendor or an engine.

    `fields`: per protocol and level, what it takes beyond the protocol's own list; the form is that of
    `gateway/protocol/fields/*.yaml`. `max_tokens_field`: the name of the output maximum that it understands, per protocol; where
    none is given, the client's own is sent. `stream_usage`: whether a stream's usage is asked for at its end
    (`include_usage`), with every chunk too (`continuous`), or comes unasked (`none`). `caps_output`: it ends an answer
    at the context's end by itself, so no maximum needs to be written. A header's name may end in `*`. `betas`: the values of
    `anthropic-beta` that pass. `names`: words that customers do not get to read in errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["tokenworks-profile/1"] = _FORMAT
    profile: str
    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    base_urls: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    fields: dict[Protocol, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    max_tokens_field: dict[Protocol, str] = Field(default_factory=dict)
    stream_usage: Literal["include_usage", "continuous", "none"] = "include_usage"
    caps_output: bool = False
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    betas: frozenset[str] = frozenset()
    sources: tuple[Source, ...] = Field(min_length=1)


@cache
def profile_names() -> tuple[str, ...]:
    """Every profile that is shipped, in order."""
    folder = files("tokenworks.factory") / "vendors"
    return tuple(
        sorted(path.name.removesuffix(_SUFFIX) for path in folder.iterdir() if path.name.endswith(_SUFFIX))
    )


@cache
def load_profile(name: str) -> Profile:
    """Raises `KeyError` where there is none of this name."""
    if name not in profile_names():
        raise KeyError(name)
    text = (files("tokenworks.factory") / "vendors" / (name + _SUFFIX)).read_text(encoding="utf-8")
    return Profile.model_validate(yaml.load(text, Loader=LOADER))  # noqa: S506  (a safe loader)


def profile_of(name: str) -> Profile:
    """A deployment's profile; the generic one where a newer release wrote a name that this one does not have."""
    return load_profile(name if name in profile_names() else GENERIC)


def max_tokens_field(
    profile: Profile, protocol: Protocol, own: str | None = None, *, asked: str | None = None
) -> str | None:
    """The field that carries the output maximum: the deployment's own word, else the profile's, else the client's."""
    if own is not None and protocol == "chat":
        return own
    return profile.max_tokens_field.get(protocol) or asked
