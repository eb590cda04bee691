"""Seeds of the simulation. `make sim SEEDS=10000` runs many; `SIM_SEED=7` runs one."""

import os

import pytest

from tests.sim.world import World

SEEDS = int(os.environ.get("SIM_SEEDS", "20"))
ONE = os.environ.get("SIM_SEED")


@pytest.mark.parametrize("seed", [int(ONE)] if ONE else range(SEEDS))
def test_seed(seed):
    World(seed).run()


def test_the_same_seed_runs_the_same():
    first, second = World(3), World(3)
    first.run()
    second.run()
    assert (first.served, first.denied, first.committed) == (second.served, second.denied, second.committed)
