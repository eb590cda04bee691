"""This tree against another revision of it, or against itself built otherwise: CPU of the same requests, in pairs, one right after
the other.

Within a pair the trees take turns by the second, one two two one, so that a machine that warms up or is shared hits both alike.
What a tree settles of it in the background, until nothing is open, is part of its price.
A ratio of a tree with itself shows how much of a figure is noise: `--base HEAD` on a clean tree. What compiling brings:
`--base HEAD --builds interpreted,compiled`.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import load
from bench.targets import ROOT, Tokenworks, cpu_s

PAIRS_MIN = 6
TURN_S = 1
STREAMS = 150
GAP_MS = 20
TOKENS = TURN_S * 1000 // GAP_MS


class Row(NamedTuple):
    """What is asked of both trees, and the ratio that it may cost."""

    label: str
    bar: float
    size: int | None = None
    usage_in_every_chunk: bool = False


ROWS = (
    Row("request of 0.3 kB", 1.05, 300),
    Row("request of 10 kB", 1.05, 10_000),
    Row("request of 100 kB", 1.15, 100_000),
    Row("chunk of a stream", 1.03),
    Row("chunk with usage, spliced out", 1.03, usage_in_every_chunk=True),
)


@contextlib.contextmanager
def checked_out(revision):
    """The tree of a revision in a folder of its own, which goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-base-") as folder:
        tree = Path(folder, "tree")
        _git("worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def built(tree, build):
    """The variables with which this tree runs "compiled" or "interpreted". SystemExit where it can't be compiled."""
    compiles = Path(tree, "scripts/compile.py")
    if not compiles.exists():
        if build == "compiled":
            raise SystemExit(f"{tree} is of before compiled modules")
        return {}
    value = {"TOKENWORKS_COMPILE": "1" if build == "compiled" else "0"}
    if build == "compiled" and subprocess.run([sys.executable, compiles], env=os.environ | value).returncode:
        raise SystemExit(f"{tree} can't be compiled")
    return value


def named(revision):
    return (
        _git("describe", "--always", "--dirty", "--abbrev=10")
        if revision is None
        else _git("rev-parse", "--short=10", revision)
    )


def _git(*args):
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout.strip()


def ratios(upstream, revision, pairs, builds, bar):
    """Row -> [(CPU of a unit at the base in µs, at this tree)], one a pair. `builds`: how the base and this tree are built, "compiled" or
    "interpreted". SystemExit where a request fails.
    """
    found = {row: [] for row in ROWS}
    with checked_out(revision) as tree, contextlib.ExitStack() as stack:
        trees = []
        for root, build in zip((tree, ROOT), builds, strict=True):
            target = Tokenworks(upstream, root=root, env=built(root, build))
            stack.callback(target.stop)
            trees.append(target)
        for row in ROWS:
            _pair(row, trees)  # nothing is cold
            for at in range(pairs):
                costs = _pair(row, trees if at % 2 else trees[::-1])
                found[row].append((costs[trees[0]], costs[trees[1]]))
                bar()
        for target in trees:
            if not target.verify()["ok"]:
                raise SystemExit(f"the ledger of {target.root} does not balance")
    return found


def _pair(row, trees):
    """Target -> CPU of a unit in µs."""
    processes = {target: target.processes() for target in trees}
    before = {target: cpu_s(those) for target, those in processes.items()}
    units = dict.fromkeys(trees, 0)
    for target in (*trees, *trees[::-1]):
        count, failed = uvloop.run(_turn(row, target))
        if failed:
            raise SystemExit(f"{failed} of {count} failed at {target.root}")
        units[target] += count
    for target in trees:
        target.settled()
    return {
        target: (cpu_s(those) - before[target]) / units[target] * 1e6 for target, those in processes.items()
    }


def _turn(row, target):
    if row.size is not None:
        return load.closed_loop(target.port, load.request(target.key, load.plain_body(row.size)), 32, TURN_S)
    body = load.stream_body(TOKENS, GAP_MS, usage_in_every_chunk=row.usage_in_every_chunk)
    return load.streams(target.port, load.request(target.key, body), STREAMS)


def summary(found):
    """(label, base µs, this µs, median ratio, least, most, bar) of each row."""
    rows = []
    for row, pairs in found.items():
        each = [mine / base for base, mine in pairs]
        rows.append((
            row.label, statistics.median(base for base, _ in pairs), statistics.median(mine for _, mine in pairs),
            statistics.median(each), min(each), max(each), row.bar,
        ))  # fmt: skip
    return rows
