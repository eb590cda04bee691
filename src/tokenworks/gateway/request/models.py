"""`GET /v1/models`: entries with the fields of OpenAI, Anthropic and OpenRouter at once, so that the clients of all three read them.

What an entry says of a model is what is declared of it and of its deployments, and beside that what the catalogue of models has. Its price
is the account's own: the weights of the plan's rate card. Nothing of a vendor's price or of where a model is served is in it.
"""

import json
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from tokenworks.catalog import Weights
from tokenworks.charging import SoldRate
from tokenworks.factory import PROTOCOLS, ModelFacts
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.protocol.errors import Refusal
from tokenworks.gateway.request.model_fields import (
    capabilities,
    context_parts,
    modalities,
    parameters,
    tokenizer,
)
from tokenworks.gateway.snapshot import Snapshot, allows

CREATED: Final = 1_767_225_600  # 2026-01-01: the date of models whose own is not known
# The most bytes of entries and whole lists that are kept of a snapshot.
KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
PAGE_MAX: Final = 1000
FIELDS_MAX: Final = 100
_PAGING: Final = frozenset({"limit", "before_id", "after_id"})

Rates = tuple[SoldRate, ...]


class Page:
    """A part of the list: at most `limit` models after or before an id. Names are in order, so an id that is gone still has a place."""

    __slots__ = ("after", "before", "limit")

    def __init__(self, limit: int | None, after: str | None, before: str | None) -> None:
        self.limit = limit
        self.after = after
        self.before = before


class ModelList:
    """Makes the entries and the lists, and keeps them up to `kept_bytes_max` as long as the snapshot stays the same."""

    __slots__ = ("_bodies", "_entries", "_kept_bytes", "_kept_bytes_max", "_snapshot")

    def __init__(self, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._kept_bytes = 0
        self._snapshot: Snapshot | None = None
        self._entries: dict[tuple[str, Rates], bytes] = {}
        self._bodies: dict[tuple[frozenset[str] | None, Rates], bytes] = {}

    def body(self, snapshot: Snapshot, user: KeyEntry, page: Page | None = None) -> bytes:
        """The models that this key may use."""
        self._renew(snapshot)
        if page is not None:
            names, more = page_of(_names(snapshot, user), page)
            return _list(names, [self._entry(snapshot, name, user.rates) for name in names], more=more)
        key = (user.models, user.rates)
        found = self._bodies.get(key)
        if found is None:
            names = _names(snapshot, user)
            found = _list(names, [self._entry(snapshot, name, user.rates) for name in names], more=False)
            if self._has_room(found):
                self._bodies[key] = found
        return found

    def model_body(self, snapshot: Snapshot, user: KeyEntry, name: str) -> bytes | None:
        """One model that this key may use, else None. A name that a wildcard alias covers is found, though the list has the alias alone."""
        model = snapshot.resolve(name)
        if model not in snapshot.models and model not in snapshot.intents:
            return None
        if not _may_use(snapshot, user, name):
            return None
        self._renew(snapshot)
        return self._entry(snapshot, name, user.rates)

    def _renew(self, snapshot: Snapshot) -> None:
        if self._snapshot is not snapshot:
            self._snapshot = snapshot
            self._entries = {}
            self._bodies = {}
            self._kept_bytes = 0

    def _entry(self, snapshot: Snapshot, name: str, rates: Rates) -> bytes:
        key = (name, rates)
        found = self._entries.get(key)
        if found is None:
            found = json.dumps(entry_of(name, snapshot, rates), ensure_ascii=False).encode()
            # Of the names that a wildcard alias covers there is no end: what a client makes up is not kept.
            listed = name in snapshot.models or name in snapshot.aliases or name in snapshot.intents
            if listed and self._has_room(found):
                self._entries[key] = found
        return found

    def _has_room(self, made: bytes) -> bool:
        """Count what is to be kept; False if there is no room for it."""
        if self._kept_bytes + len(made) > self._kept_bytes_max:
            return False
        self._kept_bytes += len(made)
        return True


def entry_of(name: str, snapshot: Snapshot, rates: Rates) -> dict[str, object]:
    """The entry of a model, an alias or an intent. Of an intent it says what some model of the intent can do."""
    intent = snapshot.intents.get(name)
    models = [snapshot.resolve(name)] if intent is None else snapshot.models_of(intent)
    deployments = [view.deployment for view in snapshot.views if view.deployment.model in models]
    cards = [snapshot.cards_of_models[model] for model in models if model in snapshot.cards_of_models]
    facts = [snapshot.facts[model] for model in models if model in snapshot.facts]
    # The words of one model are told of itself alone: an alias or an intent keeps its own name.
    named = snapshot.facts.get(name) if intent is None else None
    created = _created(named)
    input_of, output_of = modalities(cards, facts)
    title = named.name if named is not None and named.name is not None else name
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": created,
        "created_at": datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z"),
        "display_name": title,
        "name": title,
        "description": (named.description if named is not None else None) or "",
        "owned_by": "tokenworks",
        "lifecycle": "deprecated" if named is not None and named.status == "deprecated" else "active",
        **context_parts(deployments),
        "capabilities": capabilities(cards, facts, input_of),
        "architecture": {
            "modality": f"{'+'.join(input_of)}->{'+'.join(output_of)}",
            "input_modalities": input_of,
            "output_modalities": output_of,
            "tokenizer": tokenizer(named),
            "instruct_type": None,
        },
        "pricing": price_for(models, snapshot, rates),
        "supported_parameters": parameters(deployments, cards, facts),
        "per_request_limits": None,
        "protocols": sorted(
            {protocol for protocol in PROTOCOLS for model in models if (model, protocol) in snapshot.routes}
        ),
    }


def _created(facts: ModelFacts | None) -> int:
    if facts is None or facts.released is None:
        return CREATED
    try:
        day = datetime.fromisoformat(facts.released if len(facts.released) > 7 else facts.released + "-01")
    except ValueError:
        return CREATED
    return int(day.replace(tzinfo=UTC).timestamp())


def price_for(models: list[str], snapshot: Snapshot, rates: Rates) -> dict[str, str] | None:
    """What one token and one request cost the account, in units of its plan (`unit`); None if no plan sells the models, or if they have
    different prices.
    """
    found: tuple[str, Weights] | None = None
    for model in models:
        price = _rate_of(model, snapshot, rates)
        if price is None or (found is not None and price != found):
            return None
        found = price
    if found is None:
        return None
    unit, weights = found
    return {
        "prompt": _units(weights.fresh_input, unit),
        "completion": _units(weights.output, unit),
        "request": _units(weights.request, unit),
        "input_cache_read": _units(weights.cached_input, unit),
        "input_cache_write": _units(weights.cache_write, unit),
        "internal_reasoning": _units(weights.reasoning, unit),
        "audio": _units(weights.audio_input, unit),
        "unit": unit,
    }


def _rate_of(model: str, snapshot: Snapshot, rates: Rates) -> tuple[str, Weights] | None:
    """(unit, weights) of the first product whose rate card and buckets cover the model."""
    for rate in rates:
        found = snapshot.rate(rate.rate_version, model)
        if found is not None:
            for pattern in rate.model_classes:
                if fnmatchcase(found[0], pattern):
                    return rate.unit, found[1]
    return None


def _units(weight: int, unit: str) -> str:
    """A weight as an exact decimal of whole units: nano units of money, thousandths of everything else."""
    digits = 9 if unit == "CNY" else 3
    whole, rest = divmod(weight, 10**digits)
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".")


def _names(snapshot: Snapshot, user: KeyEntry) -> list[str]:
    """All names that a client may send. A wildcard alias is listed as written; a client that sends it so gets its model, too."""
    names = {*snapshot.models, *snapshot.intents}
    names.update(alias for alias, model in snapshot.aliases.items() if model in snapshot.models)
    return [name for name in sorted(names) if _may_use(snapshot, user, name)]


def _may_use(snapshot: Snapshot, user: KeyEntry, name: str) -> bool:
    if allows(user.models, name, snapshot.resolve(name)):
        return True
    intent = snapshot.intents.get(name)
    return intent is not None and allows(user.models, *snapshot.models_of(intent))


def _list(names: list[str], entries: list[bytes], *, more: bool) -> bytes:
    ends = msgspec.json.encode(names[0] if names else None), msgspec.json.encode(names[-1] if names else None)
    return b'{"object":"list","data":[%b],"has_more":%b,"first_id":%b,"last_id":%b}' % (
        b",".join(entries), b"true" if more else b"false", *ends,
    )  # fmt: skip


def read_page(query: bytes) -> Page | Refusal | None:
    """The page that a query asks for, None for the whole list. Anthropic's API takes one of `after_id` and `before_id`; other fields are
    no concern of the list, as before.
    """
    if not query:
        return None
    try:
        fields = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        return Refusal(400, "bad_request", f"a query has at most {FIELDS_MAX} fields")
    if _PAGING.isdisjoint(fields):
        return None
    text = fields.get("limit")
    limit = int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 4 else None
    if text is not None and (limit is None or not 1 <= limit <= PAGE_MAX):
        return Refusal(400, "bad_request", f"limit is a number from 1 to {PAGE_MAX}", param="limit")
    after, before = fields.get("after_id"), fields.get("before_id")
    if after is not None and before is not None:
        return Refusal(400, "bad_request", "after_id and before_id exclude each other", param="before_id")
    return Page(limit, after, before)


def page_of(names: list[str], page: Page) -> tuple[list[str], bool]:
    """(the page's names, whether more follow in its direction). A page before an id is the nearest to the id."""
    if page.before is not None:
        rest = [name for name in names if name < page.before]
        found = rest if page.limit is None else rest[-page.limit :]
    else:
        rest = names if page.after is None else [name for name in names if name > page.after]
        found = rest if page.limit is None else rest[: page.limit]
    return found, len(found) < len(rest)


def with_model(body: bytes, model: str) -> bytes:
    """The body with the model that its path names (as Azure's do) in place of its own. A body that is no JSON object is returned
    unchanged; `parse_body` refuses it.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
