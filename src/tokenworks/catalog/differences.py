"""The differences between two versions of an offering, or of a rate card, as texts. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tokenworks.catalog.model import Offering, RateCard

ChangeKind = Literal["new", "changed", "same"]


@dataclass(frozen=True, slots=True)
class OfferingChange:
    """What loading a file would change in an offering. `begins_at`: the version is sold from then on; None: from now on. `words`:
    a line for each difference.
    """

    offering_id: str
    kind: ChangeKind
    offering_version: str
    begins_at: datetime | None
    words: tuple[str, ...]


def offering_differences(before: Offering | None, after: Offering) -> list[str]:
    """A line for each field that differs, such as `price: 9.9 becomes 12`; for a new offering, a line that describes it."""
    if before is None:
        brings = ", ".join(f"{b.quantity:,} {b.unit}s" for b in after.buckets) or "no quantity"
        return [f"{after.kind.replace('_', ' ')} {after.name}: {after.price} {after.currency}, {brings}"]
    return _differences(before.model_dump(mode="json"), after.model_dump(mode="json"), "")


def card_differences(before: RateCard, after: RateCard) -> list[str]:
    """A line for each weight or pattern that differs."""

    def content(card: RateCard) -> dict[str, object]:
        dumped = card.model_dump(mode="json")
        dumped["rates"] = {rate["model_class"]: rate for rate in dumped["rates"]}
        dumped["order"] = list(dumped["rates"])
        return dumped

    return _differences(content(before), content(after), f"rate card {after.id}, ")


def _differences(before: Mapping[str, object], after: Mapping[str, object], path: str) -> list[str]:
    lines = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, f"{path}{name}.")
        else:
            lines.append(f"{path}{name}: {_text(old)} becomes {_text(new)}")
    return lines


def _text(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "; ".join(_text(item) for item in value) or "nothing"
    if isinstance(value, Mapping):
        return " ".join(
            f"{name} {_text(item)}" for name, item in value.items() if item is not None and item != ["*"]
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
