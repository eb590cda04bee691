"""A worker's observations of its deployments, in a file beside its counters: for `route explain` and for the worker's successor."""

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from tokenworks.factory import Placement

# The worker of a file that was not written for this long is dead.
STALE_S: Final = 10.0


def write_seen(path: Path, placement: Placement, now_s: float, broken: Collection[str] = ()) -> None:
    """Write the file as a whole or not at all. `broken`: names of deployments whose credential can't be used."""
    states = placement.seen(now_s)
    for name in states.keys() & set(broken):
        states[name]["broken"] = True
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps({"at_s": time.time(), "places": states}), encoding="utf-8")
    scratch.replace(path)


def read_seen(run_dir: Path, stale_s: float = STALE_S) -> dict[str, dict[str, dict[str, object]]]:
    """The observations of each live worker, by worker and deployment. Empty if no worker lives."""
    found = {}
    for path in sorted(run_dir.glob("worker-*.places")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if time.time() - content["at_s"] < stale_s:
                found[path.stem.removeprefix("worker-")] = content["places"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
