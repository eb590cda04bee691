"""`tokenworks vault`: the keys that personal data is encrypted under."""

from pathlib import Path

import click
from rich.progress import Progress

from tokenworks.app.edge import read_text
from tokenworks.app.output import print_json, say
from tokenworks.app.process.host_secrets import wait_for_hosts
from tokenworks.app.tables import console
from tokenworks.cli.base import Context, json_option, pass_context, print_result, wait_option
from tokenworks.cli.trail import audited
from tokenworks.trust import add_wrapping_key


@click.command("new-key")
@json_option
@pass_context
def vault_new_key(context: Context, as_json: bool) -> None:
    """Make the next version of the wrapping key. Copy it to every host, which takes it while it serves; then `vault rewrap`."""
    settings = context.settings()
    version = add_wrapping_key(settings.secrets)
    path = settings.secrets / f"person-wrap-{version}"
    text = f"Version {version} is in {path}: copy it to the secrets of every host, mode 600, then `tokenworks vault rewrap`."
    print_result({"version": version, "file": path}, text, as_json)


@click.command("rewrap")
@audited()
@wait_option
@click.option("--force", is_flag=True, help="Even if a host has not loaded the newest version, because that host is gone.")  # fmt: skip
@json_option
@pass_context
def vault_rewrap(context: Context, wait_s: int, force: bool, as_json: bool) -> None:
    """Wrap every person's key with the newest version. It can be interrupted and run again; afterwards older versions can be deleted.
    Refused while a host of the fleet has not loaded that version: the host could read no personal data.
    """
    count = 0
    with context.services() as services:
        if services.vault.older():
            hosts = wait_for_hosts(services, services.vault.is_newest_on, 0 if force else wait_s)
            services.vault.check_hosts([] if force else hosts)
        with Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
            task = bar.add_task("Wrapping keys", total=services.vault.older())
            while done := services.vault.rewrap():
                count += done
                bar.update(task, completed=count)
    if as_json:
        print_json({"rewrapped": count})
    else:
        say(f"{count:,} keys are wrapped with the newest version.")


@click.command("erased")
@json_option
@pass_context
def vault_erased(context: Context, as_json: bool) -> None:
    """The ids of erased subscribers, one per line: keep the list beside the backups, for `vault erase-again` after a restore."""
    with context.services() as services:
        found = list(services.privacy.erased())
    if as_json:
        print_json(found)
    else:
        for subscriber_id in found:
            say(str(subscriber_id))


@click.command("erase-again")
@audited()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@pass_context
def vault_erase_again(context: Context, file: Path, as_json: bool) -> None:
    """After a restore: erase the subscribers again that a list of `vault erased` names and that came back with the backup. It can be run again."""
    ids = read_text(file).split()
    count = 0
    with (
        context.services() as services,
        Progress(console=console, transient=True, disable=as_json or not console.is_terminal) as bar,
    ):
        task = bar.add_task("Erasing", total=len(ids))
        for number, text in enumerate(ids, 1):
            count += services.privacy.erase_again(text)
            bar.update(task, completed=number)
    print_result(
        {"erased": count, "named": len(ids)},
        f"{count:,} of {len(ids):,} had come back and are erased.",
        as_json,
    )
