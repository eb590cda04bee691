"""Where a request goes: the one rule, which the data plane and `route explain` share.

First which model it gets (`options`, then `rank`, where its name is an intent's), then which place (`Placement.choose`), by what
is known of the subscriber (`placement_request`, `single_deployment_request`). `decide` is all of it at once, on a state that nothing is sent at.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tokenworks.factory.intents.choice import Choice, Intent, ModelCard, Option, Requirements, rank, unfit
from tokenworks.factory.placing.placement import (
    TRIVIAL_REQUEST,
    Candidate,
    DeploymentView,
    Objective,
    Placement,
    PlacementRequest,
)

# What a model costs the subscriber: (in thousandths of a unit, of which unit, whether something that he has pays for it).
Cost = Callable[[str], tuple[int, str, bool]]


class DeclaredModels(Protocol):
    """What is declared: models with their places, aliases, intents. The gateway's snapshot is one."""

    @property
    def intents(self) -> Mapping[str, Intent]: ...
    def model_for(
        self, name: str, protocol: str, allowed: frozenset[str] | None, default: str | None
    ) -> str: ...
    def models_meant(self, intent: Intent) -> Sequence[str]: ...
    def card_of(self, model: str) -> ModelCard: ...
    def views_of(self, model: str, protocol: str) -> Sequence[DeploymentView]: ...


class SubscriberPolicy(NamedTuple):
    """What of a subscriber decides where its requests go: its plan's promises, and where its data may go."""

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
    """What placement is told of a request, at least one token each way. `objective`: the plan's, or of its intent."""
    return PlacementRequest(
        input_tokens, output_tokens, blocks, block_tokens, objective, regions, None, home, edge_first
    )


def request_of_subscriber(
    subject: SubscriberPolicy, wanted: Requirements, objective: Objective | None = None
) -> PlacementRequest:
    """As `placement_request`, before the prompt's beginning is known."""
    return placement_request(
        objective or subject.objective, subject.edge_first, subject.regions, subject.home, max(1, wanted.input_tokens),
        max(1, wanted.output_tokens),
    )  # fmt: skip


def single_deployment_request(regions: tuple[str, ...] | None, home: str | None) -> PlacementRequest:
    """Where a model has one place, nothing is foreseen: only whether the place may have the request."""
    if regions is None and home is None:
        return TRIVIAL_REQUEST
    return TRIVIAL_REQUEST._replace(regions=regions, home=home)


def options(
    known: DeclaredModels,
    protocol: str,
    intent: Intent,
    wanted: Requirements,
    ask: PlacementRequest,
    placement: Placement,
    now_s: float,
    cost: Cost,
    *,
    may_use: Callable[[str], bool] = lambda _model: True,
    filing_required: bool = False,
) -> tuple[list[Option], dict[str, str]]:
    """The models of an intent that the subscriber may use, that can do what is wanted, and that a place serves now; and why each
    of the others is out.
    """
    found: list[Option] = []
    out: dict[str, str] = {}
    for model in known.models_meant(intent):
        if not may_use(model):
            out[model] = "key: it may not use this model"
            continue
        places, card = known.views_of(model, protocol), known.card_of(model)
        why = (
            "no deployment serves it" if not places else unfit(card, wanted, filing_required=filing_required)
        )
        if why is None:
            best = placement.explain(places, (), ask, now_s)[0]
            why = best.excluded
        if why is not None:
            out[model] = why
            continue
        cost_of_it, unit, paid = cost(model)
        found.append(Option(model, card, best.first_token_ms, cost_of_it, unit, paid, best.cost_nano))
    return found, out


class Decision(NamedTuple):
    """Where a request would go. `model` is none of a place where `refused` says why it gets none."""

    model: str
    ask: PlacementRequest
    chosen: DeploymentView | None
    # Every place of the model, the best first, each with what is foreseen there or why it is out.
    candidates: tuple[Candidate, ...] = ()
    # Of an intent: the models in the order in which they are tried, and why the others are out.
    choices: tuple[Choice, ...] = ()
    models_out: Mapping[str, str] = {}
    refused: str | None = None


def decide(
    known: DeclaredModels,
    name: str,
    protocol: str,
    subject: SubscriberPolicy,
    wanted: Requirements,
    placement: Placement,
    now_s: float,
    cost: Cost,
    *,
    filing_required: bool = False,
    without: Collection[str] = (),
) -> Decision:
    """Where a first request for what is named would go, by all that is known before its prompt's beginning is. `without`: places
    that can't be asked at all, such as those whose credential is missing.
    """
    model = known.model_for(name, protocol, None, subject.default_model)
    ask = request_of_subscriber(subject, wanted)
    intent = known.intents.get(model) if protocol != "embeddings" else None
    if intent is None or known.views_of(model, protocol):
        if not known.views_of(model, protocol):
            return Decision(
                model, ask, None, refused=f"no deployment serves {name}: tokenworks deployment list"
            )
        why = unfit(known.card_of(model), wanted, filing_required=filing_required)
        placed = _placed(known, model, protocol, subject, ask, placement, now_s, without)
        return placed if why is None else placed._replace(chosen=None, refused=f"{model} can't have this request: {why}")  # fmt: skip
    ranked = request_of_subscriber(subject, wanted, intent.objective)
    found, out = options(
        known, protocol, intent, wanted, ranked, placement, now_s, cost, filing_required=filing_required
    )
    choices = tuple(rank(intent, wanted, found))
    # What has no place for the best model goes to the next one.
    tries = [_placed(known, one.model, protocol, subject, ask, placement, now_s, without) for one in choices]
    best = next((one for one in tries if one.chosen is not None), tries[0] if tries else None)
    if best is None:
        why = f"no model can have this request as {model}: {out or 'none has a declared quality'}"
        return Decision(model, ask, None, models_out=out, refused=why)
    return best._replace(choices=choices, models_out=out)


def _placed(
    known: DeclaredModels,
    model: str,
    protocol: str,
    subject: SubscriberPolicy,
    ask: PlacementRequest,
    placement: Placement,
    now_s: float,
    without: Collection[str],
) -> Decision:
    places = known.views_of(model, protocol)
    chosen = placement.choose(places, without, placed_by(places, subject, ask), now_s)
    candidates = _named(placement.explain(places, (), ask, now_s), without)
    if chosen is not None:
        # Where there is one place it gets what it may have, however long that takes.
        lone = len(places) == 1
        candidates = [c._replace(excluded=None) if lone and c.view is chosen.view else c for c in candidates]
    return Decision(model, ask, None if chosen is None else chosen.view, tuple(candidates))


def placed_by(
    places: Sequence[DeploymentView], subject: SubscriberPolicy, ask: PlacementRequest
) -> PlacementRequest:
    """What a place is chosen by: where there is one alone, only by whether it may have the request."""
    return single_deployment_request(subject.regions, subject.home) if len(places) == 1 else ask


def _named(candidates: Iterable[Candidate], without: Collection[str]) -> list[Candidate]:
    said = "credential: what it names is not there, or is not taken"
    return [c._replace(excluded=c.excluded or said) if c.view.name in without else c for c in candidates]
