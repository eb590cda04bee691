"""`route explain`: the deployment that a request would get, by the observations of this host's workers or, if none runs, by what
is declared.
"""

from collections.abc import Callable, Collection, Mapping

from tokenworks.factory import PROTOCOLS, Decision, Placement, Requirements, SubscriberPolicy, decide
from tokenworks.gateway.snapshot import Snapshot


def explain_route(
    make_snapshot: Callable[[], Snapshot],
    seen: Mapping[str, Mapping[str, Mapping[str, object]]],
    name: str,
    subject: SubscriberPolicy,
    wanted: Requirements,
    cost: Callable[[str], tuple[int, str, bool]],
    *,
    filing_required: bool = False,
) -> list[tuple[str, Decision]]:
    """(worker, decision) for each worker, made by `decide` on a copy of the worker's state. Without workers there is one decision, by
    what is declared, under "". `seen` is the result of `read_seen`. If the model is served over several protocols, the first of
    `PROTOCOLS` counts.
    """
    decisions = []
    # A worker of the release before writes fewer fields and is left out.
    complete = {
        worker: states
        for worker, states in seen.items()
        if all("wanted" in state for state in states.values())
    }
    for worker, states in (complete or {"": {}}).items():
        snapshot = make_snapshot()
        placement = Placement()
        placement.set_views(snapshot.views)
        placement.restore(states, 0.0)
        model = snapshot.model_for(name, PROTOCOLS[0], None, subject.default_model)
        protocol = _protocol(snapshot, model)
        broken: Collection[str] = {name for name, state in states.items() if state.get("broken")}
        decision = decide(
            snapshot, name, protocol, subject, wanted, placement, 0.0, cost,
            filing_required=filing_required, without=broken,
        )  # fmt: skip
        decisions.append((worker, decision))
    return decisions


def _protocol(snapshot: Snapshot, model: str) -> str:
    return next((protocol for protocol in PROTOCOLS if snapshot.native_of(model, protocol)), PROTOCOLS[0])
