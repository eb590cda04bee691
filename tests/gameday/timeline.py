"""What a person sees of a game: a line for each event with what clients felt, a bar of how far it is, and how to play it again."""

import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.gameday.traffic import OK


class Shown:
    """What a line says of an event."""

    def __init__(self):
        self.what, self.felt = "", Counter()


class Timeline:
    def __init__(self, stream=None):
        self.console = Console(file=stream or sys.stderr, width=140, highlight=False)
        self.logs_at = None
        self.again = ""
        self._began_s = time.monotonic()
        self._number = 0
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=self.console, transient=True,
            disable=not self.console.is_terminal,
        )  # fmt: skip

    def begin(self, seed, course):
        self._count = len(course)
        self._task = self._bar.add_task("game day", total=len(course))
        self._bar.start()
        self.console.print(f"seed {seed}: {len(course)} events under streaming load")

    def _at(self):
        seconds = time.monotonic() - self._began_s
        return f"{int(seconds) // 60:02d}:{seconds % 60:04.1f}"

    @contextlib.contextmanager
    def event(self, event):
        self._number += 1
        self._bar.update(self._task, description=event.name)
        began_s, shown = time.monotonic(), Shown()
        try:
            yield shown
        except BaseException:
            self._line(event, began_s, shown, "LOST")
            raise
        felt = (
            ", ".join(f"{count} {code}" for code, count in sorted(shown.felt.items()) if code != OK)
            or "nothing"
        )
        self._line(event, began_s, shown, f"{shown.felt[OK]} answers, felt: {felt}")
        self._bar.advance(self._task)

    def _line(self, event, began_s, shown, said):
        what = f" ({shown.what})" if shown.what else ""
        took_s = time.monotonic() - began_s
        self.console.print(
            f"{self._at()}  {self._number:3d}/{self._count}  {event.name}{what}: {said}; {took_s:.1f} s",
            markup=False,
        )

    def end(self, sums):
        self._bar.stop()
        lost = ", ".join(f"{count} {cause}" for cause, count in sorted(sums["lost"].items())) or "none"
        asked = ", ".join(f"{count} {code}" for code, count in sums["answers"].most_common())
        self.console.print(f"answers: {asked}")
        self.console.print(
            f"tokens: {sums['made']} made = {sums['charged']} charged + losses ({lost}) + {sums['unseen']} made after the last that is "
            f"known of {sums['cut']} answers that were cut"
        )
        self.console.print(f"{self._at()}  won: the sums are even, nothing waits and nothing is left")

    def logs(self, folder):
        """Keep what the hosts said."""
        self._bar.stop()
        self.logs_at = Path(tempfile.mkdtemp(prefix="game-day-lost-"))
        for log in folder.glob("*/serve.log"):
            shutil.copy(log, self.logs_at / f"{log.parent.name}.log")
