"""`tokenworks init`: the database, its schema, the roles, the secrets and the catalogue."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click

from tokenworks.app.database.connections import owned_database
from tokenworks.app.edge import read_text
from tokenworks.app.install import InstallPlan, bring_schema, install, older_hosts, plan_install
from tokenworks.app.output import on_terminal, print_json, say
from tokenworks.catalog import read_catalogue, seed_catalogue
from tokenworks.charging import Host
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
)

# Between two lines about the batches of one backfill, in a log.
PROGRESS_EVERY_S: Final = 5.0


@click.command()
@click.option(
    "--catalogue",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A catalogue file instead of the seed.",
)
@click.option("--plan", is_flag=True, help="Say which steps the schema needs, and do nothing.")
@json_option
@pass_context
def init(context: Context, catalogue: Path | None, plan: bool, as_json: bool) -> None:
    """Make the database, its schema, the role that serves, the secrets and the catalogue. Safe to run again."""
    settings = context.settings()
    content = seed_catalogue() if catalogue is None else read_catalogue(read_text(catalogue), str(catalogue))
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as stack:
        with _status("Starting the database") as doing:
            place = stack.enter_context(owned_database(settings))
            if plan:
                _show_plan(plan_install(place.owner_url), as_json=as_json)
                return
            schema = bring_schema(place, doing if on_terminal() else _LogProgress())
        new = install(settings, place, content, _sealing)
    result = {
        "data_dir": settings.data_dir,
        "schema": schema,
        "offerings": len(content.offerings),
        "new_versions": new,
    }
    if as_json:
        print_json(result)
    else:
        say(
            f"Ready in {settings.data_dir}: schema {schema}, {len(content.offerings)} offerings ({new} new versions)."
        )


def _show_plan(plan: InstallPlan, *, as_json: bool) -> None:
    there, steps, hosts = plan
    rows = [step._asdict() for step in steps]
    if as_json:
        print_json({"schema": there, "steps": rows, "hosts": hosts_of(hosts)})
        return
    if not steps:
        say(f"The schema is {there}, and this release's: nothing to do.")
        return
    if there is None:
        say(f"There is no schema yet: {len(steps)} steps make it.")
        return
    for step in steps:
        say(f"{step.revision}  {step.what}")
        if step.begun:
            after = f", after {step.after}" if step.after else ""
            say(
                f"      unfinished: it was cut off{after}; releases from schema {step.revision} on do not start before it is done"
            )
        say(f"      releases from schema {step.compatible_from} on may serve meanwhile and afterwards")
        older = older_hosts(hosts, step.compatible_from, there)
        if older:
            say(f"      stop these hosts before it, or give them a newer release: {', '.join(older)}")
        for table, mode in sorted(step.locks.items()):
            say(f"      locks {table}: {mode}")
        for index in step.indexes:
            say(f"      builds the index {index} while others write")
        if step.fills:
            say("      fills rows in batches; cut off, it goes on where it was")


def hosts_of(hosts: list[Host]) -> list[dict[str, object]]:
    """The hosts as JSON has them."""
    return [
        {
            "host": host.host,
            "release": host.release and host.release.release,
            "schema": host.release and host.release.schema,
            "since": host.since,
            "seen_at": host.seen_at,
            "alive": host.alive,
        }
        for host in hosts
    ]


class _LogProgress:
    """The progress where no terminal is: a line on stderr for each step, and one every `PROGRESS_EVERY_S` for the batches of a backfill."""

    def __init__(self) -> None:
        self._step = ""
        self._printed_s = 0.0

    def __call__(self, text: str) -> None:
        step, _, batches = text.partition(": ")
        now_s = time.monotonic()
        if step != self._step or not batches or now_s - self._printed_s >= PROGRESS_EVERY_S:
            self._step, self._printed_s = step, now_s
            say(text, err=True)


@contextlib.contextmanager
def _sealing() -> Iterator[Callable[[str, int, int], None]]:
    """On a terminal, a bar for each table that is encrypted. Yields the callback for progress."""
    if not on_terminal():
        yield lambda _place, _done, _total: None
        return
    from rich.progress import Progress, TaskID  # noqa: PLC0415 - shown on a terminal alone

    from tokenworks.app.tables import console  # noqa: PLC0415

    with Progress(console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(place: str, done: int, total: int) -> None:
            if place not in tasks:
                tasks[place] = bar.add_task(f"Encrypting {place.replace('_', ' ')}", total=total)
            bar.update(tasks[place], completed=done, total=total)

        yield progress


@contextlib.contextmanager
def _status(what: str) -> Iterator[Callable[[str], None]]:
    """On a terminal, a spinner with a text. Yields the function that changes the text."""
    if on_terminal():
        from tokenworks.app.tables import console  # noqa: PLC0415 - shown on a terminal alone

        with console.status(what) as status:
            yield status.update
    else:
        yield lambda _: None
