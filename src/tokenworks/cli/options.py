"""Options that several commands share."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import click

from tokenworks.cli.base import Command
from tokenworks.kernel import SystemClock, is_digits

LIST_DEFAULT: Final = 50

limit_option: Callable[[Command], Command] = click.option(
    "--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True
)
reason_option: Callable[[Command], Command] = click.option("--reason", required=True, help="Why; it is kept.")
idempotency_option: Callable[[Command], Command] = click.option(
    "--idempotency-key", help="The same key again does nothing more."
)
when_option: Callable[[Command], Command] = click.option(
    "--when", type=click.Choice(["now", "cycle_end"]), default="now", show_default=True
)
dry_run_option: Callable[[Command], Command] = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and do nothing."
)
second_option: Callable[[Command], Command] = click.option(
    "--confirm", is_flag=True, help="Order it even if the subscriber has it already, and pay twice."
)
product_option: Callable[[Command], Command] = click.option("--product", required=True, type=click.UUID)


# Digits of a span such as 24h: enough for 273 years in days.
SPAN_DIGITS_MAX: Final = 5


def since_of(text: str | None) -> datetime | None:
    """A time, or a span before now. Raises `click.UsageError`."""
    if text is None:
        return None
    units = {"m": 60, "h": 3600, "d": 86_400}
    if is_digits(text[:-1], SPAN_DIGITS_MAX) and text[-1:] in units:
        return SystemClock().now() - timedelta(seconds=int(text[:-1]) * units[text[-1]])
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"--since is a time such as 2026-11-23T08:00 or a span such as 24h, not {text!r}"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
