"""What the placement of a request costs the data plane: hashing the prompt, choosing, and learning, at so many deployments."""

import random
import time

from tokenworks.factory import (
    BLOCK_BYTES,
    DeploymentView,
    Placement,
    PlacementRequest,
    hash_blocks,
    make_deployment,
)

PROMPT_BYTES = 50_000
ROUNDS = 3000


def cost_us(deployments, seed=1):
    """CPU of one placement in µs: fifty chats of 50 kB in turn, over deployments in one region."""
    rnd = random.Random(seed)
    bodies = [rnd.randbytes(PROMPT_BYTES) for _ in range(50)]
    views = [
        DeploymentView(
            make_deployment(
                name=f"d{at}", model="m", upstream_model="m", base_url="https://x.example/v1", protocols=("chat",), region="cn-sh"
            )
        )
        for at in range(deployments)
    ]  # fmt: skip
    placement = Placement()
    placement.set_views(views)
    now_s = 0.0
    began = time.process_time()
    for ticket in range(ROUNDS):
        body = bodies[ticket % len(bodies)]
        request = PlacementRequest(len(body) // 4, 500, hash_blocks(body), BLOCK_BYTES / 4, regions=("cn",))
        chosen = placement.choose(views, (), request, now_s)
        chosen.view.began(now_s)
        placement.sent(ticket, chosen, request, now_s)
        placement.first_token(ticket, chosen.view, now_s + 0.2)
        chosen.view.ended()
        now_s += 0.01
    return (time.process_time() - began) / ROUNDS * 1e6
