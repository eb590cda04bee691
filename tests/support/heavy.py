"""Tests that take seconds (tests/heavy.txt), of which a run may take a sample.

`HEAVY_SAMPLE=4` in the environment takes one of four, chosen by `HEAVY_SEED` or else by the commit, so that each commit takes others and
the same commit takes the same. Without it all run.
"""

import functools
import os
import subprocess
import zlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "heavy.txt"


@functools.cache
def heavy_tests():
    """`tests/FILE::FUNCTION` of each."""
    lines = (line.split() for line in FILE.read_text().splitlines() if not line.startswith("#"))
    return frozenset(f"tests/{path}::{name}" for path, *names in lines for name in names)


@functools.cache
def seed():
    """The one that is given, else the commit; "" outside of a repository."""
    given = os.environ.get("HEAVY_SEED")
    if given is not None:
        return given
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def function_of(nodeid):
    """A test's name without its parameters and its group."""
    path, _, rest = nodeid.partition("::")
    return f"{path}::{rest.partition('[')[0].partition('@')[0]}"


def is_heavy(nodeid):
    return function_of(nodeid) in heavy_tests()


def in_sample(nodeid, one_of, seed_text):
    """Whether this test is in a sample of one of `one_of`. Its parameters are chosen one by one."""
    return zlib.crc32(f"{seed_text} {nodeid.partition('@')[0]}".encode()) % one_of == 0
