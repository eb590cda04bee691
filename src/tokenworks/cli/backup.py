"""`tokenworks backup`: its options. The implementation is in `backups.py`, which the help does not import."""

from pathlib import Path

import click

from tokenworks.cli.base import json_option
from tokenworks.cli.lazy import Noun


@click.group(cls=Noun, path="backup", invoke_without_command=True)
@click.option("--to", help="A folder, or s3://bucket/prefix. Left out: archive_to.")
@click.option(
    "--secrets-to",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for a copy of secrets_dir, apart from --to. Left out: none is made.",
)
@json_option
@click.pass_context
def backup(click_context: click.Context, to: str | None, secrets_to: Path | None, as_json: bool) -> None:
    """Back up this host while it serves: the embedded database, and the journal.

    With a PostgreSQL of your own: the journal alone; back up the database with its own tools.
    """
    if click_context.invoked_subcommand is not None:
        if to is not None or secrets_to is not None:
            raise click.UsageError(
                "--to and --secrets-to are of `backup` alone: name the place after the command"
            )
        return
    from tokenworks.cli.backups import back_up  # noqa: PLC0415 - help needs none of it

    back_up(click_context.obj, to, secrets_to, as_json=as_json)
