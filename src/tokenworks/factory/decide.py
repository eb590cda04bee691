"""Where a request goes: the one rule, which the data plane and `route explain` share.

The model comes first (`options`, then `rank`, if the request names an intent), then the deployment (`Placement.choose`), by what is
known of the subscriber (`placement_request`, `single_deployment_request`). `decide` does both on a state that nothing is sent from.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tokenworks.factory.intents.choice import Choice, Intent, ModelCard, Option, Requirements, rank, unfit
from tokenworks.factory.placing.placement import Placement
from tokenworks.factory.placing.request import TRIVIAL_REQUEST, Objective, PlacementRequest
from tokenworks.factory.placing.views import Candidate, DeploymentView

# What a model costs the subscriber: (thousandths of a unit, the unit, whether a bucket of the subscriber pays for the model).
Cost = Callable[[str], tuple[int, str, bool]]


class DeclaredModels(Protocol):
    """Models with their deployments, aliases and intents. The gateway's snapshot is one.

    `native_of`: so many of `views_of`, at the beginning, speak the protocol; requests are translated for the others, which come after
    them.
    """

    @property
    def intents(self) -> Mapping[str, Intent]: ...
    def model_for(
        self, name: str, protocol: str, allowed: frozenset[str] | None, default: str | None
    ) -> str: ...
    def models_meant(self, intent: Intent) -> Sequence[str]: ...
    def card_of(self, model: str) -> ModelCard: ...
    def views_of(self, model: str, protocol: str) -> Sequence[DeploymentView]: ...
    def native_of(self, model: str, protocol: str) -> int: ...


class SubscriberPolicy(NamedTuple):
    """What decides where a subscriber's requests go: its plan's promises, and where its data may go."""

    objective: Objective = "latency"
    edge_first: bool = True
    regions: tuple[str, ...] | None = None
    home: str | None = None
    default_model: str | None = None


def placement_request(
    objective: Objective,
    edge_first: bool,
    regions: tuple[str, ...] | None,
    home: str | None,
    input_tokens: int,
    output_tokens: int,
    blocks: Sequence[int] = (),
    block_tokens: float = 0.0,
) -> PlacementRequest:
    """What placement is given of a request, with at least one token each way. `objective`: the plan's, or the intent's."""
    return PlacementRequest(
        input_tokens, output_tokens, blocks, block_tokens, objective, regions, None, home, edge_first
    )


def request_of_subscriber(
    policy: SubscriberPolicy, requirements: Requirements, objective: Objective | None = None
) -> PlacementRequest:
    """As `placement_request`, before the blocks of the prompt are known."""
    return placement_request(
        objective or policy.objective, policy.edge_first, policy.regions, policy.home, max(1, requirements.input_tokens),
        max(1, requirements.output_tokens),
    )  # fmt: skip


def single_deployment_request(regions: tuple[str, ...] | None, home: str | None) -> PlacementRequest:
    """The request for a model with one deployment: nothing is predicted, only the rules are checked."""
    if regions is None and home is None:
        return TRIVIAL_REQUEST
    return TRIVIAL_REQUEST._replace(regions=regions, home=home)


def options(
    declared: DeclaredModels,
    protocol: str,
    intent: Intent,
    requirements: Requirements,
    request: PlacementRequest,
    placement: Placement,
    now_s: float,
    cost: Cost,
    *,
    may_use: Callable[[str], bool] = lambda _model: True,
    filing_required: bool = False,
) -> tuple[list[Option], dict[str, str]]:
    """The models of an intent that the subscriber may use, that meet the requirements, and that a deployment serves now; and by
    model why each of the others is excluded.
    """
    found: list[Option] = []
    excluded: dict[str, str] = {}
    for model in declared.models_meant(intent):
        if not may_use(model):
            excluded[model] = "key: it may not use this model"
            continue
        views, card = declared.views_of(model, protocol), declared.card_of(model)
        reason = (
            "no deployment serves it"
            if not views
            else unfit(card, requirements, filing_required=filing_required)
        )
        if reason is None:
            best = placement.explain(views, (), request, now_s, declared.native_of(model, protocol))[0]
            reason = best.excluded
        if reason is not None:
            excluded[model] = reason
            continue
        model_cost, unit, paid = cost(model)
        found.append(Option(model, card, best.first_token_ms, model_cost, unit, paid, best.cost_nano))
    return found, excluded


class Decision(NamedTuple):
    """Where a request would go. `chosen` is None if no deployment may have it, or if `refused` says why the model can't."""

    model: str
    request: PlacementRequest
    chosen: DeploymentView | None
    # Every deployment of the model, the best first, each with its prediction or the reason why it is excluded.
    candidates: tuple[Candidate, ...] = ()
    # For an intent: the models in the order in which they are tried, and why the others are excluded.
    choices: tuple[Choice, ...] = ()
    models_out: Mapping[str, str] = {}
    refused: str | None = None


def decide(
    declared: DeclaredModels,
    name: str,
    protocol: str,
    policy: SubscriberPolicy,
    requirements: Requirements,
    placement: Placement,
    now_s: float,
    cost: Cost,
    *,
    filing_required: bool = False,
    without: Collection[str] = (),
) -> Decision:
    """Where a first request for `name` (a model, an alias or an intent) would go, as far as can be said before the blocks of its
    prompt are known. `without`: deployments that can't be used, for example because their credential is missing.
    """
    model = declared.model_for(name, protocol, None, policy.default_model)
    request = request_of_subscriber(policy, requirements)
    intent = declared.intents.get(model) if protocol != "embeddings" else None
    if intent is None or declared.views_of(model, protocol):
        if not declared.views_of(model, protocol):
            return Decision(
                model, request, None, refused=f"no deployment serves {name}: tokenworks deployment list"
            )
        reason = unfit(declared.card_of(model), requirements, filing_required=filing_required)
        placed = _place(declared, model, protocol, policy, request, placement, now_s, without)
        if reason is None:
            return placed
        return placed._replace(chosen=None, refused=f"{model} can't have this request: {reason}")
    intent_request = request_of_subscriber(policy, requirements, intent.objective)
    found, excluded = options(
        declared, protocol, intent, requirements, intent_request, placement, now_s, cost, filing_required=filing_required
    )  # fmt: skip
    choices = tuple(rank(intent, requirements, found))
    # If no deployment of the best model can have the request, the next model gets it.
    decisions = [
        _place(declared, choice.model, protocol, policy, request, placement, now_s, without)
        for choice in choices
    ]
    first = decisions[0] if decisions else None
    best = next((decision for decision in decisions if decision.chosen is not None), first)
    if best is None:
        reason = f"no model can have this request as {model}: {excluded or 'none has a declared quality'}"
        return Decision(model, request, None, models_out=excluded, refused=reason)
    return best._replace(choices=choices, models_out=excluded)


def _place(
    declared: DeclaredModels,
    model: str,
    protocol: str,
    policy: SubscriberPolicy,
    request: PlacementRequest,
    placement: Placement,
    now_s: float,
    without: Collection[str],
) -> Decision:
    """The decision between the deployments of one model."""
    views, first = declared.views_of(model, protocol), declared.native_of(model, protocol)
    single = len(views) == 1
    asked = single_deployment_request(policy.regions, policy.home) if single else request
    chosen = placement.choose(views, without, asked, now_s, first)
    candidates = _without(placement.explain(views, (), request, now_s, first), without)
    if chosen is not None and single:
        # A single deployment gets every request that it may have, however long the wait.
        candidates = [c._replace(excluded=None) if c.view is chosen.view else c for c in candidates]
    return Decision(model, request, None if chosen is None else chosen.view, tuple(candidates))


def _without(candidates: Iterable[Candidate], without: Collection[str]) -> list[Candidate]:
    reason = "credential: what it names is not there, or is not taken"
    return [c._replace(excluded=c.excluded or reason) if c.view.name in without else c for c in candidates]
