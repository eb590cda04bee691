"""Where a request would go, by what this host's workers see, or by what is declared where none runs."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from tokenworks.factory import PROTOCOLS, Decision, Placement, Subject, Wanted, decide
from tokenworks.gateway.snapshot import Snapshot


def explain_route(
    make_snapshot: Callable[[], Snapshot],
    seen: Mapping[str, Mapping[str, Mapping[str, Any]]],
    name: str,
    subject: Subject,
    wanted: Wanted,
    cost: Callable[[str], tuple[int, str, bool]],
    *,
    filing_required: bool = False,
) -> list[tuple[str, Decision]]:
    """By worker (or once, by what is declared: ""): what `decide` says on a copy of its state. `seen` is as `read_seen` gives it.
    Of several protocols it is the first over which what is named is served.
    """
    decisions = []
    # A worker of the release before tells less: what it tells is left out.
    told = {name: states for name, states in seen.items() if all("wanted" in one for one in states.values())}
    for worker, states in (told or {"": {}}).items():
        snapshot = make_snapshot()
        placement = Placement()
        placement.set_places(snapshot.views)
        placement.restore(states, 0.0)
        model = snapshot.model_for(name, PROTOCOLS[0], None, subject.default_model)
        protocol = _protocol(snapshot, model)
        broken: Collection[str] = {view for view, state in states.items() if state.get("broken")}
        made = decide(
            snapshot, name, protocol, subject, wanted, placement, 0.0, cost,
            filing_required=filing_required, without=broken,
        )  # fmt: skip
        decisions.append((worker, made))
    return decisions


def _protocol(snapshot: Snapshot, model: str) -> str:
    return next((one for one in PROTOCOLS if snapshot.places_of(model, one)), PROTOCOLS[0])
