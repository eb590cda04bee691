"""What vendors publish of their models: limits, accepted inputs, prices. Each fact has its source and date.

There is one YAML file per profile in `vendors/models/`. Deployments are declared by their operator; these facts change none of them.
"""

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tokenworks.factory.facts.profiles import LOADER


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rates(_Frozen):
    """Nano units of a currency per token of each class. None: not known, or without a price of its own."""

    fresh_input_nano: int | None = Field(default=None, ge=0, strict=True)
    cached_input_nano: int | None = Field(default=None, ge=0, strict=True)
    cache_write_nano: int | None = Field(default=None, ge=0, strict=True)
    cache_write_1h_nano: int | None = Field(default=None, ge=0, strict=True)
    audio_input_nano: int | None = Field(default=None, ge=0, strict=True)
    output_nano: int | None = Field(default=None, ge=0, strict=True)
    reasoning_nano: int | None = Field(default=None, ge=0, strict=True)
    audio_output_nano: int | None = Field(default=None, ge=0, strict=True)


class Tier(Rates):
    """The rates of requests with more input tokens than `above_input_tokens`."""

    above_input_tokens: int = Field(gt=0)


class ListPrice(Rates):
    """A vendor's list price in one currency and region; at the hours of `schedule` if there is one."""

    currency: Literal["CNY", "USD"]
    region: str
    schedule: str | None = None
    tiers: tuple[Tier, ...] = ()
    source: str
    date: str


class ModelFacts(_Frozen):
    """A model as its vendor names it (`id`). None means that no value was found, not that the answer is no."""

    id: str
    name: str | None = None
    context_tokens: int | None = Field(default=None, gt=0)
    input_tokens_max: int | None = Field(default=None, gt=0)
    output_tokens_max: int | None = Field(default=None, gt=0)
    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()
    tools: bool | None = None
    reasoning: bool | None = None
    efforts: tuple[str | None, ...] = ()
    thinking_can_be_switched: bool = False
    status: str | None = None
    source: str
    date: str
    prices: tuple[ListPrice, ...] = ()


class _File(_Frozen):
    format: Literal["tokenworks-models/1"]
    profile: str
    collected: str
    models: tuple[ModelFacts, ...]


@cache
def facts_of(profile: str) -> dict[str, ModelFacts]:
    """A vendor's models by their id; empty if no facts are shipped for the profile."""
    path = files("tokenworks.factory") / "vendors" / "models" / f"{profile}.yaml"
    if not path.is_file():
        return {}
    content = _File.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER))  # noqa: S506
    assert content.profile == profile
    return {facts.id: facts for facts in content.models}
