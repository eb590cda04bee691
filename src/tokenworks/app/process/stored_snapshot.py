"""The catalogue and the deployments as the database has them: what requests are placed and rated by."""

from typing import NamedTuple

from psycopg import Connection

from tokenworks.catalog import Offerings, RateCard
from tokenworks.charging import Ledger, Limit, PublishedSnapshot
from tokenworks.factory import Deployment, Deployments, Intent, KnownModels, ModelCard, ModelFacts
from tokenworks.gateway import snapshot_to_wire
from tokenworks.kernel import Clock
from tokenworks.trust import any_kept


class StoredSnapshot(NamedTuple):
    """What one read of the database found."""

    deployments: list[Deployment]
    aliases: dict[str, str]
    cards: dict[str, RateCard]
    limits: dict[str, Limit]
    models: list[ModelCard]
    intents: list[Intent]
    facts: dict[str, ModelFacts]
    foreign_keys: bool

    def wire(self, number: int) -> PublishedSnapshot:
        """The snapshot as workers read it."""
        return snapshot_to_wire(
            number,
            self.deployments,
            self.aliases,
            self.cards,
            self.limits,
            self.models,
            self.intents,
            self.facts,
            foreign_keys=self.foreign_keys,
        )


def read_snapshot(connection: Connection, clock: Clock) -> StoredSnapshot:
    """Eight queries, one after the other. A change between two of them is a change that the next poll reports."""
    deployments = Deployments(connection)
    declared = deployments.all()
    limits = Ledger(connection, clock).deployment_limits()
    return StoredSnapshot(
        declared,
        deployments.aliases(),
        Offerings(connection).rate_cards(),
        limits,
        deployments.models(),
        deployments.intents(),
        KnownModels(connection).served(declared),
        any_kept(connection),
    )
