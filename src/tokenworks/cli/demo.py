"""`tokenworks demo`."""

import os
import sys
from pathlib import Path

import click

from tokenworks.cli.base import (
    Context,
    pass_context,
)


@click.command()
@click.option("--keep", is_flag=True, help="Go on serving and say how to connect.")
@pass_context
def demo(context: Context, keep: bool) -> None:
    """The whole way on a real model: sell a plan, serve prompts, charge them exactly, prove the charges."""
    from tokenworks.app.demo.walk import run_demo  # noqa: PLC0415

    data_dir = context._data_dir or os.environ.get("TOKENWORKS_DATA_DIR")
    sys.exit(run_demo(Path(data_dir) if data_dir else None, keep=keep))
