"""`tokenworks balance`."""

import click

from tokenworks.app import views
from tokenworks.app.output import print_json
from tokenworks.cli.base import (
    Context,
    json_option,
    pass_context,
    subscriber_option,
)


@click.command()
@subscriber_option
@json_option
@pass_context
def balance(context: Context, subscriber: str, as_json: bool) -> None:
    """What is left, bucket by bucket."""
    with context.services() as services:
        found = services.ledger.buckets(services.subscriptions.find(subscriber).account_id)
    if as_json:
        print_json([views.bucket_json(bucket) for bucket in found])
    else:
        views.print_buckets("Balance", found)
