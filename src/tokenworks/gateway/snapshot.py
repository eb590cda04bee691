"""The data plane's snapshot of catalogue and deployments: an immutable object that is replaced as a whole."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from tokenworks.catalog import RateCard, Weights
from tokenworks.charging import Limit, PublishedSnapshot
from tokenworks.factory import (
    BUILT_IN,
    MODALITIES,
    PROTOCOLS,
    Deployment,
    DeploymentView,
    Intent,
    ModelCard,
    ModelFacts,
    carry_over,
    facts_to_wire,
    media_rules,
    models_meant,
)
from tokenworks.gateway.protocol.estimate import InputRules
from tokenworks.gateway.translate.directions import upstream_protocol

RATES_MEMO_MAX: Final = 100_000


class Route:
    """The deployments that serve a model over a protocol, and the largest context and output of any of them.

    `views`: first the `native` ones that speak the protocol, then those for which requests are translated; of one kind or of both.
    `translates`: there is one of the second kind.
    """

    __slots__ = (
        "caps_output",
        "context_tokens",
        "hides_reasoning",
        "native",
        "output_tokens",
        "rules",
        "tokenizer",
        "translates",
        "views",
    )

    def __init__(self, native: list[DeploymentView], others: list[DeploymentView]) -> None:
        """`others`: deployments for which requests are translated."""
        self.views = views = native + others
        self.native = len(native)
        self.translates = bool(others)
        self.context_tokens = max(view.deployment.context_tokens for view in views)
        self.output_tokens = max(view.deployment.max_output_tokens for view in views)
        self.hides_reasoning = any(view.deployment.hides_reasoning for view in views)
        # True if each deployment ends an answer at the end of the context by itself.
        self.caps_output = all(view.profile.caps_output for view in views)
        # A tokenizer of the model counts for all of its deployments.
        self.tokenizer = next((p.deployment.tokenizer for p in views if p.deployment.tokenizer), None)
        found = {(p.deployment.profile, p.deployment.upstream_model) for p in views}
        self.rules = tuple({InputRules(media_rules(*names)): None for names in sorted(found)})


class Snapshot:
    """Deployments by model and protocol, aliases, and rate cards by version."""

    __slots__ = (
        "_memo",
        "aliases",
        "by_name",
        "cards",
        "cards_of_models",
        "credentials",
        "facts",
        "intents",
        "limits",
        "models",
        "number",
        "routes",
        "views",
        "wildcards",
    )

    def __init__(
        self,
        number: int,
        deployments: Iterable[Deployment],
        aliases: Mapping[str, str],
        cards: Mapping[str, RateCard],
        credentials: Mapping[str, str | None],
        before: "Snapshot | None" = None,
        limits: Mapping[str, Limit] = MappingProxyType({}),
        models: Iterable[ModelCard] = (),
        intents: Iterable[Intent] = (),
        facts: Mapping[str, ModelFacts] = MappingProxyType({}),
    ) -> None:
        self.number = number
        # What is published of the served models, by their names for clients. It decides nothing.
        self.facts = dict(facts)
        self.limits = dict(limits)
        self.aliases = dict(aliases)
        # (what stands before the `*`, model) of each wildcard alias, the longest first.
        self.wildcards = sorted(
            ((name[:-1], model) for name, model in self.aliases.items() if name.endswith("*")),
            key=lambda found: (-len(found[0]), found[0]),
        )
        self.cards = dict(cards)
        self.credentials = dict(credentials)
        self.views: list[DeploymentView] = carry_over(
            before.views if before else (), [DeploymentView(d) for d in deployments]
        )
        self.by_name = {view.name: view for view in self.views}
        self.routes = _routes(self.views)
        self.models = dict.fromkeys(sorted({view.deployment.model for view in self.views}))
        self.cards_of_models = {card.name: card for card in models}
        defined = BUILT_IN | {intent.name: intent for intent in intents}
        self.intents = {name: intent for name, intent in defined.items() if self.models_of(intent)}
        self._memo: dict[tuple[str, str], tuple[str, Weights] | None] = {}

    def has_credential(self, reference: str) -> bool:
        """True if this host has the credential of a reference."""
        return bool(self.credentials.get(reference))

    def rate(self, rate_version: str, model: str) -> tuple[str, Weights] | None:
        """(model class, weights) of a model in a rate card."""
        key = (rate_version, model)
        if key in self._memo:
            return self._memo[key]
        card = self.cards.get(rate_version)
        if card is None:
            return None
        rate = card.rate_for(model)
        found = None if rate is None else (rate.model_class, rate.weights())
        if len(self._memo) < RATES_MEMO_MAX:
            self._memo[key] = found
        return found

    def models_of(self, intent: Intent) -> list[str]:
        """The served models of an intent: those that it names, else all with a declared quality."""
        return [model for model in self.models_meant(intent) if model in self.models]

    def models_meant(self, intent: Intent) -> list[str]:
        """The models of an intent, served or not."""
        return models_meant(intent, self.cards_of_models)

    def views_of(self, model: str, protocol: str) -> list[DeploymentView]:
        route = self.routes.get((model, protocol))
        return [] if route is None else route.views

    def native_of(self, model: str, protocol: str) -> int:
        """The number of deployments at the beginning of `views_of` that speak the protocol; requests are translated for the others."""
        route = self.routes.get((model, protocol))
        return 0 if route is None else route.native

    def card_of(self, model: str) -> ModelCard:
        return self.cards_of_models.get(model) or ModelCard(name=model, modalities=MODALITIES)

    def resolve(self, name: str) -> str:
        """The model that a name stands for: by an exact alias, else the name itself if it is served, else by the longest wildcard alias."""
        model = self.aliases.get(name)
        if model is not None:
            return model
        if name in self.models or name in self.intents:
            return name
        for prefix, stands_for in self.wildcards:
            if name.startswith(prefix):
                return stands_for
        return name

    def model_for(self, name: str, protocol: str, allowed: frozenset[str] | None, default: str | None) -> str:
        """The model (or intent) of a request: what its name stands for or, if that is not served, the plan's default. The default is
        taken only if it is served over the protocol and the key may use it.
        """
        model = self.resolve(name)
        if default is None or model in self.models or model in self.intents:
            return model
        other = self.resolve(default)
        served = (other, protocol) in self.routes or (other in self.intents and protocol != "embeddings")
        if served and (allowed is None or other in allowed or default in allowed):
            return other
        return model


def _routes(views: Iterable[DeploymentView]) -> dict[tuple[str, str], Route]:
    """The route of each model and protocol over which it is served, by deployments that speak it or by translation."""
    of_models: dict[str, list[DeploymentView]] = {}
    for view in views:
        of_models.setdefault(view.deployment.model, []).append(view)
    routes: dict[tuple[str, str], Route] = {}
    for model, serving in of_models.items():
        for protocol in PROTOCOLS:
            native = [view for view in serving if protocol in view.deployment.protocols]
            others = [view for view in serving if upstream_protocol(protocol, view.deployment.protocols)]
            if native or others:
                routes[model, protocol] = Route(native, others)
    return routes


def allows(allowed: frozenset[str] | None, *names: str) -> bool:
    """True if a key's models have one of these names. An entry that ends in `*` stands for all names with that begin."""
    if allowed is None or not allowed.isdisjoint(names):
        return True
    return any(entry.endswith("*") and name.startswith(entry[:-1]) for entry in allowed for name in names)


def snapshot_to_wire(
    number: int,
    deployments: Iterable[Deployment],
    aliases: Mapping[str, str],
    cards: Mapping[str, RateCard],
    limits: Mapping[str, Limit],
    models: Iterable[ModelCard] = (),
    intents: Iterable[Intent] = (),
    facts: Mapping[str, ModelFacts] = MappingProxyType({}),
    *,
    foreign_keys: bool = False,
) -> PublishedSnapshot:
    return PublishedSnapshot(
        number=number,
        deployments=[d.model_dump_json() for d in deployments],
        aliases=dict(aliases),
        cards={version: card.model_dump_json() for version, card in cards.items()},
        limits=dict(limits),
        models=[card.model_dump_json() for card in models],
        intents=[intent.model_dump_json() for intent in intents],
        facts={name: facts_to_wire(known) for name, known in facts.items()},
        foreign_keys=foreign_keys,
    )


def snapshot_from_wire(
    content: PublishedSnapshot, credentials: Mapping[str, str | None], before: Snapshot | None
) -> Snapshot:
    known = before.cards if before else {}
    return Snapshot(
        content.number,
        [Deployment.model_validate_json(text) for text in content.deployments],
        content.aliases,
        {
            version: known.get(version) or RateCard.model_validate_json(text)
            for version, text in content.cards.items()
        },
        credentials,
        before,
        content.limits,
        [ModelCard.model_validate_json(text) for text in content.models],
        [Intent.model_validate_json(text) for text in content.intents],
        {name: ModelFacts.model_validate_json(text) for name, text in content.facts.items()},
    )
