"""What placement knows of a request, and the rules that keep a request from a deployment for good."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

from tokenworks.factory.model import Deployment

Objective = Literal["latency", "balance", "cost", "quality"]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)


class PlacementRequest(NamedTuple):
    """What placement knows of a request. `blocks` are the hashes of the prompt's first blocks, of `block_tokens` tokens each."""

    input_tokens: int
    output_tokens: int
    blocks: Sequence[int] = ()
    block_tokens: float = 0.0
    objective: Objective = "latency"
    # Regions that the data may go to, as prefixes (`cn` allows `cn-sh`), and vendors that may read it. None: no limit.
    regions: tuple[str, ...] | None = None
    vendors: frozenset[str] | None = None
    # The subscriber's home region: an edge box there is preferred, an edge box elsewhere is excluded.
    home: str | None = None
    edge_first: bool = True

    def uncached(self, blocks: int) -> int:
        """Prompt tokens to compute where `blocks` blocks are cached: at least the last token."""
        return max(1, self.input_tokens - int(blocks * self.block_tokens))


# The request of a model with one deployment and no rule: nothing is predicted for it, and nothing is learned from it.
TRIVIAL_REQUEST: Final = PlacementRequest(1, 1)


def may_have(deployment: Deployment, request: PlacementRequest) -> str | None:
    """Return why a deployment may never have a request, even if no other deployment can take it; None if it may.

    A deployment without a region gets no request whose data must stay in some regions.
    """
    if request.regions is not None:
        region = deployment.region
        if region is None:
            return (
                f"residency: it does not say where it is, and data may go to {_regions(request.regions)} only"
            )
        if not any(is_within(region, allowed) for allowed in request.regions):
            return f"residency: it is in {region}, and data may go to {_regions(request.regions)} only"
    if request.vendors is not None and deployment.vendor not in request.vendors:
        return f"vendor: {deployment.vendor or 'it names none'} is not one of {', '.join(sorted(request.vendors))}"
    region, home = deployment.region, request.home
    if (
        deployment.kind == "edge"
        and region is not None
        and home is not None
        and not (is_within(home, region) or is_within(region, home))
    ):
        return f"edge: it serves {region}, and the subscriber is at home in {home}"
    return None


def _regions(regions: Sequence[str]) -> str:
    return ", ".join(regions) or "no region"


def is_within(region: str, other: str) -> bool:
    """True if a region is another region or a part of it: cn-sh is within cn."""
    return region == other or region.startswith(other + "-")
