"""The progress of long operations: bars on a terminal, lines in a log."""

import contextlib
from collections.abc import Iterator

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from tokenworks.app.database.backup import Progress as ProgressCallback
from tokenworks.app.output import say
from tokenworks.app.tables import console


@contextlib.contextmanager
def progress_bars(*, quiet: bool) -> Iterator[ProgressCallback]:
    """On a terminal, a bar for each step; elsewhere a line on stderr when a step begins. Yields the callback for progress."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    shown = console.is_terminal and not quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None)
                if not console.is_terminal:
                    say(what, err=True)
            bar.update(tasks[what], completed=done, total=total or None)

        yield report
