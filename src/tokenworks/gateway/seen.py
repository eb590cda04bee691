"""What a worker sees of its places, in a file beside its counters: for `route explain`, and for the worker that comes after it."""

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from tokenworks.factory import Placement

# A file that was not written for so long is a dead worker's.
STALE_S: Final = 10.0


def write_seen(path: Path, placement: Placement, now_s: float, broken: Collection[str] = ()) -> None:
    """Whole or not at all. `broken`: places whose credential can't be used."""
    states = placement.seen(now_s)
    for name in states.keys() & set(broken):
        states[name]["broken"] = True
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({"at_s": time.time(), "places": states}), encoding="utf-8")
    scratch.replace(path)


def read_seen(run_dir: Path, stale_s: float = STALE_S) -> dict[str, dict[str, Any]]:
    """By worker: what it sees of each place. Empty where no worker lives."""
    found = {}
    for path in sorted(run_dir.glob("worker-*.places")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if time.time() - content["at_s"] < stale_s:
                found[path.stem.removeprefix("worker-")] = content["places"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
