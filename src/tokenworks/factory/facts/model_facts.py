"""The catalogue of models: what makers, sellers and price lists publish of them, with sources and dates. It is data, and pays nothing.

`vendors/models/` has one YAML file a maker. An operator's import (`tokenworks model import`) lies over the shipped facts, field by field.
A deployment takes figures from here when it is added and none are given; what is declared already never changes by itself.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Final, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tokenworks.factory.facts.list_prices import SELLER_PATTERN, ListPrice, Note, price_of
from tokenworks.factory.facts.profiles import LOADER, Source
from tokenworks.factory.intents.choice import Filing
from tokenworks.factory.model import MODEL_PATTERN

FORMAT: Final = "tokenworks-models/2"
SELLERS_MAX: Final = 100
PRICES_MAX: Final = 100
NOTES_MAX: Final = 50
DESCRIPTION_CHARS_MAX: Final = 4000
Mode = Literal["chat", "embedding", "rerank", "realtime"]
FactsModality = Literal["text", "image", "audio", "video", "pdf", "file"]
Tokens = Annotated[int, Field(gt=0, le=100_000_000, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
SellerName = Annotated[str, Field(pattern=SELLER_PATTERN)]


class ModelFacts(BaseModel):
    """What is published of a model. None, or nothing in a list, means that no value was found, not that the answer is no.

    `seller`: the maker's own service, whose prices name no seller. `vendor_ids`: the model's name at each seller. `released`: a date, or
    its year and month. `filing`: the filing as a generative AI service in China, where it is public.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: Annotated[str, Field(pattern=MODEL_PATTERN)]
    name: Label | None = None
    description: Annotated[str, Field(max_length=DESCRIPTION_CHARS_MAX)] | None = None
    maker: Label | None = None
    seller: SellerName | None = None
    mode: Mode | None = None
    status: Literal["deprecated", "removed", "alpha", "beta"] | None = None
    released: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}(-[0-9]{2})?$")] | None = None
    open_weights: Flag | None = None
    context_tokens: Tokens | None = None
    input_tokens_max: Tokens | None = None
    output_tokens_max: Tokens | None = None
    input: tuple[FactsModality, ...] = Field(default=(), max_length=6)
    output: tuple[FactsModality, ...] = Field(default=(), max_length=6)
    tools: Flag | None = None
    reasoning: Flag | None = None
    structured_output: Flag | None = None
    efforts: tuple[Label, ...] = Field(default=(), max_length=20)
    thinking_can_be_switched: Flag | None = None
    filing: Filing | None = None
    filing_no: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    vendor_ids: dict[SellerName, Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        default_factory=dict, max_length=SELLERS_MAX
    )
    prices: tuple[ListPrice, ...] = Field(default=(), max_length=PRICES_MAX)
    notes: tuple[Note, ...] = Field(default=(), max_length=NOTES_MAX)
    sources: tuple[Source, ...] = Field(default=(), max_length=NOTES_MAX)

    @property
    def context(self) -> int | None:
        """The context in tokens; where only the largest input is known, that."""
        return self.context_tokens or self.input_tokens_max


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["tokenworks-models/2"]
    maker: str
    seller: str
    collected: str
    models: tuple[ModelFacts, ...]


@cache
def shipped_facts() -> dict[str, ModelFacts]:
    """Every shipped model by its id, makers in the order of their names."""
    found: dict[str, ModelFacts] = {}
    folder = files("tokenworks.factory") / "vendors" / "models"
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".yaml"):
            content = _File.model_validate(yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER))  # noqa: S506
            for facts in content.models:
                assert facts.id not in found, facts.id
                found[facts.id] = facts.model_copy(update={"maker": content.maker, "seller": content.seller})
    return found


class FactsIndex:
    """Models by every name that a seller gives them, in any letter case; the same letter case counts first, and ids before names."""

    __slots__ = ("_by_name", "_by_seller", "facts")

    def __init__(self, facts: Mapping[str, ModelFacts]) -> None:
        self.facts = facts
        self._by_name: dict[str, str] = {}
        self._by_seller: dict[tuple[str, str], str] = {}
        for name in facts:
            self._by_name.setdefault(name.casefold(), name)
        sold = [
            (seller, name, model.id) for model in facts.values() for seller, name in model.vendor_ids.items()
        ]
        for seller, name, model_id in sold:
            self._by_seller.setdefault((seller, name), model_id)
            self._by_name.setdefault(name, model_id)
        for seller, name, model_id in sold:
            self._by_seller.setdefault((seller, name.casefold()), model_id)
            self._by_name.setdefault(name.casefold(), model_id)

    def find(self, name: str, seller: str | None = None) -> ModelFacts | None:
        """The facts of the model that `seller` calls `name`, else of the one that has this id or has this name anywhere."""
        folded = name.casefold()
        found = None
        if seller is not None:
            found = self._by_seller.get((seller, name)) or self._by_seller.get((seller, folded))
        if found is None and name in self.facts:
            found = name
        return self.facts.get(found or self._by_name.get(name) or self._by_name.get(folded, ""))


@cache
def shipped_index() -> FactsIndex:
    return FactsIndex(shipped_facts())


def model_facts(vendor: str, model: str) -> ModelFacts | None:
    """The shipped facts of a model that a vendor sells, by the vendor's name of the model or by our id; None if there are none."""
    return shipped_index().find(model, vendor)


def upstream_id(facts: ModelFacts, vendor: str) -> str:
    """The name by which a vendor knows the model; its id if the vendor's name is not known."""
    return facts.vendor_ids.get(vendor, facts.id)


def all_facts(imported: Iterable[ModelFacts]) -> dict[str, ModelFacts]:
    """The shipped facts under what an operator has imported, by id."""
    found = dict(shipped_facts())
    for facts in imported:
        before = found.get(facts.id)
        found[facts.id] = facts if before is None else overlaid(before, facts)
    return found


_LISTED: Final = frozenset({"vendor_ids", "prices", "sources"})
_EMPTY: Final[tuple[object, ...]] = (None, (), {})


def overlaid(under: ModelFacts, over: ModelFacts) -> ModelFacts:
    """`under` with every field that `over` gives. Names at sellers are joined; a price replaces the one of its seller, currency, region
    and schedule.
    """
    changed: dict[str, object] = {
        name: value
        for name in ModelFacts.model_fields
        if name not in _LISTED and (value := getattr(over, name)) not in _EMPTY
    }
    changed["vendor_ids"] = dict([*{**under.vendor_ids, **over.vendor_ids}.items()][:SELLERS_MAX])
    prices = {price.key: price for price in under.prices}
    prices.update({price.key: price for price in over.prices})
    # Within the limits of a model: what can't be stored again would be lost.
    changed["prices"] = tuple(prices.values())[-PRICES_MAX:]
    changed["sources"] = tuple(dict.fromkeys((*over.sources, *under.sources)))[:NOTES_MAX]
    return under.model_copy(update=changed)


class Change(NamedTuple):
    """One field of a model before and after, as JSON has it."""

    field: str
    before: object
    after: object


def changes(before: ModelFacts, after: ModelFacts) -> list[Change]:
    """The fields that differ; prices and names at sellers one by one. Sources and their dates alone are no change."""
    found = [
        Change(name, old, new)
        for name in ModelFacts.model_fields
        if name not in _LISTED and (old := getattr(before, name)) != (new := getattr(after, name))
    ]
    for seller in {**before.vendor_ids, **after.vendor_ids}:
        names = before.vendor_ids.get(seller), after.vendor_ids.get(seller)
        if names[0] != names[1]:
            found.append(Change(f"vendor_ids.{seller}", *names))
    old_prices = {price.key: price for price in before.prices}
    new_prices = {price.key: price for price in after.prices}
    for key in {**old_prices, **new_prices}:
        was, now = (_figures(prices.get(key)) for prices in (old_prices, new_prices))
        if was != now:
            found.append(Change("prices." + ".".join(part for part in key if part), was, now))
    return found


def _figures(price: ListPrice | None) -> dict[str, object] | None:
    if price is None:
        return None
    hidden = {"source", "date", "seller", "currency", "region", "schedule"}
    return {
        name: value
        for name, value in price.model_dump(mode="json", exclude_none=True).items()
        if name not in hidden and value != []
    }


def list_price_text(facts: ModelFacts | None) -> str:
    """The price that stands for a model in a table, as `input / output currency`: the maker's own before another seller's."""
    if facts is None:
        return ""
    own = price_of(facts.prices, None, None, "1")
    shown = own or next((price for price in facts.prices if price.input is not None), None)
    if shown is None:
        return ""
    seller = f" at {shown.seller}" if shown.seller else ""
    return f"{shown.input} / {shown.output or '?'} {shown.currency}{seller}"
