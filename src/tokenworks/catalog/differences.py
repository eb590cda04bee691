"""What is different between two versions of an offering, or of a rate card, in words: pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from tokenworks.catalog.model import Offering, RateCard

ChangeKind = Literal["new", "changed", "same"]


@dataclass(frozen=True, slots=True)
class OfferingChange:
    """What loading a file would do to an offering. `begins_at`: when the version is sold from; None: at once."""

    offering_id: str
    kind: ChangeKind
    offering_version: str
    begins_at: datetime | None
    words: tuple[str, ...]


def offering_differences(before: Offering | None, after: Offering) -> list[str]:
    """A line for each field that is different, `price: 9.9 becomes 12`; of a new offering what it is."""
    if before is None:
        brings = ", ".join(f"{b.quantity:,} {b.unit}s" for b in after.buckets) or "no quantity"
        return [f"{after.kind.replace('_', ' ')} {after.name}: {after.price} {after.currency}, {brings}"]
    return _changed(before.model_dump(mode="json"), after.model_dump(mode="json"), "")


def card_differences(before: RateCard, after: RateCard) -> list[str]:
    """A line for each weight or pattern that is different."""

    def content(card: RateCard) -> dict[str, Any]:
        dumped = card.model_dump(mode="json")
        dumped["rates"] = {rate["model_class"]: rate for rate in dumped["rates"]}
        dumped["order"] = list(dumped["rates"])
        return dumped

    return _changed(content(before), content(after), f"rate card {after.id}, ")


def _changed(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> list[str]:
    words = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            words += _changed(old, new, f"{where}{name}.")
        else:
            words.append(f"{where}{name}: {_said(old)} becomes {_said(new)}")
    return words


def _said(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "; ".join(_said(item) for item in value) or "nothing"
    if isinstance(value, Mapping):
        return " ".join(
            f"{name} {_said(item)}" for name, item in value.items() if item is not None and item != ["*"]
        )
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
