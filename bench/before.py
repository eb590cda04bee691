"""This tree against another revision of it: CPU of the same requests, in pairs, one right after the other.

Pairs are interleaved and each tree is first in every second one, so that a machine that warms up or is shared hits both alike.
A ratio of a tree with itself shows how much of a figure is noise: `--base HEAD` on a clean tree.
"""

import contextlib
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench import load
from bench.targets import ROOT, Tokenworks

PAIRS_MIN = 6
SECONDS = 3
STREAMS = 150
TOKENS, GAP_MS = 150, 20


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


def ratios(upstream, revision, pairs, cost_us, bar):
    """Row -> [(CPU of the base in µs, of this tree)], one a pair. `cost_us(target, run)` is the CPU of a unit of `run`."""
    found = {row: [] for row in ROWS}
    with checked_out(revision) as tree, contextlib.ExitStack() as stack:
        trees = []
        for root in (tree, ROOT):
            target = Tokenworks(upstream, root=root)
            stack.callback(target.stop)
            trees.append(target)
        for row in ROWS:
            for target in trees:  # nothing is cold
                cost_us(target, _run(row, target, seconds=1, tokens=20))
            for at in range(pairs):
                costs = {}
                for target in trees if at % 2 else reversed(trees):
                    costs[target] = cost_us(target, _run(row, target, SECONDS, TOKENS))
                found[row].append((costs[trees[0]], costs[trees[1]]))
                bar()
        for target in trees:
            target.settled()
            if not target.verify()["ok"]:
                raise SystemExit(f"the ledger of {target.root} does not balance")
    return found


def _run(row, target, seconds, tokens):
    if row.size is not None:
        data = load.request(target.key, load.plain_body(row.size))
        return lambda: load.closed_loop(target.port, data, 32, seconds)
    body = load.stream_body(tokens, GAP_MS, usage_in_every_chunk=row.usage_in_every_chunk)
    return lambda: load.streams(target.port, load.request(target.key, body), STREAMS)


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
