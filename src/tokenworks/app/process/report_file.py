"""The recorder's report as other processes read it: a file of the run directory, which the recorder replaces once a second."""

import json
import time
from pathlib import Path
from typing import Final, NamedTuple

REPORT_FILE: Final = "recorder.json"


class RecorderReport(NamedTuple):
    """`values`: counters and values of now, with `age_seconds` of the file. `histograms`: name -> (units a second, bounds, counts and
    their total).
    """

    values: dict[str, float]
    loss_tokens: dict[str, int]
    histograms: dict[str, tuple[int, list[int], list[int]]]

    @property
    def age_s(self) -> float:
        return self.values["age_seconds"]


def read_report(run_dir: Path) -> RecorderReport | None:
    """The newest report; None where there is none."""
    path = run_dir / REPORT_FILE
    try:
        content = json.loads(path.read_text())
        age_s = time.time() - path.stat().st_mtime
    except (OSError, ValueError):
        return None
    values = {
        name: value for name, value in content.items() if isinstance(value, int | float) and name != "pid"
    }
    return RecorderReport(
        values | {"age_seconds": age_s}, content.get("loss_tokens", {}), content.get("histograms", {})
    )
