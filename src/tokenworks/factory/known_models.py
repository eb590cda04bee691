"""The catalogue of models of an installation: the shipped facts, and over them what its operator imported.

Facts pay nothing: an import changes no rate card, no deployment and no declaration of a model.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from psycopg import Connection
from pydantic import ValidationError

from tokenworks.factory import store
from tokenworks.factory.errors import DeploymentInvalid, ModelNotFound
from tokenworks.factory.facts.list_prices import ListPrice, paid_price, price_of
from tokenworks.factory.facts.model_facts import (
    Change,
    FactsIndex,
    ModelFacts,
    all_facts,
    changes,
    overlaid,
    shipped_index,
)
from tokenworks.factory.intents.choice import MODALITIES, ModelCard
from tokenworks.factory.model import Deployment
from tokenworks.factory.service import Deployments

IMPORTED_MAX: Final = 20_000
# Fields that tell whose model it is. They are not shown of a model that is sold under a name of the operator's own.
_TELLING: Final = ("name", "description", "maker", "released", "open_weights", "status")
# Fields that a worker does not need.
_UNSERVED: Final = {"seller", "vendor_ids", "prices", "notes", "sources"}


class ImportPlan(NamedTuple):
    """What an import would do. `added`: models that were not known; `changed`: by id, the fields that differ; `same`: the number of
    models that stay as they are. `writes`: the stored facts by id.
    """

    added: dict[str, ModelFacts]
    changed: dict[str, list[Change]]
    same: int
    writes: dict[str, ModelFacts]


class Figures(NamedTuple):
    """What a new deployment takes from the catalogue: fields of the deployment, a declaration of its model where there is none, and a
    sentence for each.
    """

    fields: dict[str, object]
    card: ModelCard | None
    taken: list[str]


class ListedModel(NamedTuple):
    """A model with all that is known of it here. `imported`: whether something was imported of it."""

    name: str
    card: ModelCard | None
    deployments: tuple[str, ...]
    facts: ModelFacts | None
    imported: bool


class KnownModels:
    """Reads and writes the catalogue on one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def imported(self) -> dict[str, ModelFacts]:
        """What was imported, by id."""
        return _read(store.imported_facts(self._connection))

    def all(self) -> dict[str, ModelFacts]:
        """All known models by id: the shipped facts under the imported ones."""
        return all_facts(self.imported().values())

    def index(self) -> FactsIndex:
        return FactsIndex(self.all())

    def plan(self, models: Mapping[str, ModelFacts]) -> ImportPlan:
        """What importing these models would do. The same import again has nothing to do."""
        imported = self.imported()
        known = all_facts(imported.values())
        plan = ImportPlan({}, {}, 0, {})
        same = 0
        for name, facts in models.items():
            before = known.get(name)
            if before is None:
                plan.added[name] = facts
            else:
                found = changes(before, overlaid(before, facts))
                if not found:
                    same += 1
                    continue
                plan.changed[name] = found
            stored = imported.get(name)
            plan.writes[name] = facts if stored is None else overlaid(stored, facts)
        return plan._replace(same=same)

    def apply(self, plan: ImportPlan) -> None:
        """Store what is planned, all or nothing. Raises `DeploymentInvalid` if there would be too many models."""
        if not plan.writes:
            return
        if len(self.imported().keys() | plan.writes.keys()) > IMPORTED_MAX:
            raise DeploymentInvalid(f"at most {IMPORTED_MAX} models can be imported: remove some first")
        contents = {name: facts.model_dump_json(exclude_defaults=True) for name, facts in plan.writes.items()}
        store.set_facts(self._connection, contents)

    def find(self, name: str, seller: str | None = None) -> ModelFacts | None:
        """The facts of a model by its id or a seller's name, with what was imported of it."""
        found = shipped_index().find(name, seller)
        if found is None:
            return self.index().find(name, seller)
        over = _read(store.imported_facts(self._connection, [found.id])).get(found.id)
        return found if over is None else overlaid(found, over)

    def listed(self, *, here: bool = False) -> list[ListedModel]:
        """All models that are declared, deployed or in the catalogue, those of this installation first. `here`: only those."""
        imported = self.imported()
        index = FactsIndex(all_facts(imported.values()))
        cards = {card.name: card for card in Deployments(self._connection).models()}
        places: dict[str, list[str]] = {}
        for deployment in Deployments(self._connection).all():
            places.setdefault(deployment.model, []).append(deployment.name)
        own = sorted(cards.keys() | places.keys())
        names = (
            own
            if here
            else [*own, *(name for name in index.facts if name not in cards and name not in places)]
        )
        found = []
        for name in names:
            facts = index.find(name)
            was_imported = facts is not None and facts.id in imported
            found.append(ListedModel(name, cards.get(name), tuple(places.get(name, ())), facts, was_imported))
        return found

    def known(self, name: str) -> ListedModel:
        """A model by its name here, its id, or a seller's name. Raises `ModelNotFound`."""
        listed = self.listed()
        for model in listed:
            if model.name == name:
                return model
        facts = self.find(name)
        for model in listed:
            if facts is not None and model.facts is not None and model.facts.id == facts.id:
                return model
        raise ModelNotFound(f"no model {name} is known: `tokenworks model list` shows those that are")

    def remove(self, name: str) -> None:
        """Remove what is declared and what is imported of a model. Raises `ModelNotFound` if neither was."""
        declared = store.remove_named(self._connection, "model_card", name)
        if not store.remove_named(self._connection, "model_facts", name) and not declared:
            raise ModelNotFound(
                f"nothing is declared or imported of {name}: `tokenworks model list` shows what is"
            )

    def figures_for(
        self, deployment: Deployment, given: Collection[str], declared: Collection[str], usd_yuan: str
    ) -> Figures:
        """What a deployment takes that is being added. `given`: fields that the operator gave, which stay; `declared`: the models of which
        something is declared. A price is taken only of a seller that is known to sell the model: an engine of one's own has none.
        """
        seller = deployment.vendor or deployment.profile
        facts = self.find(deployment.upstream_model, seller) or self.find(deployment.model, seller)
        figures = Figures({}, None, [])
        if facts is None:
            return figures
        context = facts.context
        for field, value in (
            ("context_tokens", context),
            ("max_output_tokens", _capped(facts.output_tokens_max, context)),
        ):
            if value is not None and field not in given:
                figures.fields[field] = value
                figures.taken.append(f"{field} {value}")
        if "price" not in given:
            self._price(figures, facts, seller, deployment.region, usd_yuan)
        if deployment.model not in declared and facts.input:
            takes = tuple(
                name
                for name in MODALITIES
                if name in {*facts.input, "text"} or (name == "file" and "pdf" in facts.input)
            )
            # A filing is a permission by law: only the operator declares it.
            card = ModelCard(name=deployment.model, modalities=takes, tools=facts.tools is not False)
            figures.taken.append(
                f"model {card.name}: {', '.join(takes)}, {'tools' if card.tools else 'no tools'}"
            )
            return figures._replace(card=card)
        return figures

    @staticmethod
    def _price(figures: Figures, facts: ModelFacts, seller: str, region: str | None, usd_yuan: str) -> None:
        if seller != facts.seller and seller not in facts.vendor_ids:
            return
        row_seller = None if seller == facts.seller else seller
        price = price_of(facts.prices, row_seller, region, usd_yuan or None)
        if price is not None:
            figures.fields["price"] = paid_price(price, usd_yuan or None).model_dump()
            tiers = "; longer inputs cost more" if price.tiers or price.note else ""
            figures.taken.append(
                f"price per million: input {price.input}, output {price.output or 'not known'} {price.currency}"
                f"{f', {price.schedule}' if price.schedule else ''}{tiers} ({price.source}, {price.date})"
            )
        elif price_of(facts.prices, row_seller, region, "1") is not None:
            figures.taken.append("no price: it is in dollars, and the setting usd_yuan has no rate")

    def served(self, deployments: Iterable[Deployment]) -> dict[str, ModelFacts]:
        """The facts of the models of these deployments, by the models' names for clients."""
        by_model: dict[str, list[Deployment]] = {}
        for deployment in deployments:
            by_model.setdefault(deployment.model, []).append(deployment)
        # (facts or None, id under which facts may be imported, whether clients call the model by a name of its own)
        found: dict[str, tuple[ModelFacts | None, str, bool]] = {}
        for model, places in by_model.items():
            own = shipped_index().find(model)
            facts = own or next((known for known in map(_shipped_at, places) if known is not None), None)
            found[model] = facts, model if facts is None else facts.id, own is not None or facts is None
        ids = sorted({name for _, name, _ in found.values()})
        imported = _read(store.imported_facts(self._connection, ids)) if ids else {}
        served: dict[str, ModelFacts] = {}
        for model, (known, name, own_name) in found.items():
            over = imported.get(name)
            whole = over if known is None else known if over is None else overlaid(known, over)
            if whole is not None:
                served[model] = whole if own_name else whole.model_copy(update=dict.fromkeys(_TELLING))
        return served


def facts_to_wire(facts: ModelFacts) -> str:
    """The facts as workers read them: JSON without prices and origins."""
    return facts.model_dump_json(exclude_defaults=True, exclude=_UNSERVED)


def _capped(output: int | None, context: int | None) -> int | None:
    return output if output is None or context is None else min(output, context)


def _shipped_at(place: Deployment) -> ModelFacts | None:
    return shipped_index().find(place.upstream_model, place.vendor or place.profile)


def _read(contents: Iterable[object]) -> dict[str, ModelFacts]:
    """Stored facts by id. A field that a newer release wrote is left out, and so are facts that this release can't read."""
    found: dict[str, ModelFacts] = {}
    for content in contents:
        if not isinstance(content, dict):
            continue
        fields = {name: value for name, value in content.items() if name in ModelFacts.model_fields}
        rows = fields.get("prices")
        if isinstance(rows, list):
            fields["prices"] = [
                {name: value for name, value in row.items() if name in ListPrice.model_fields}
                for row in rows
                if isinstance(row, dict)
            ]
        try:
            facts = ModelFacts.model_validate(fields)
        except ValidationError:
            continue
        found[facts.id] = facts
    return found
