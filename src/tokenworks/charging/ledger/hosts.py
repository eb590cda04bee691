"""Hosts: their journals, whether they live, what they run, and the news that they read."""

from datetime import datetime, timedelta
from uuid import UUID

from tokenworks.charging.errors import (
    ChangesMissed,
)
from tokenworks.charging.ledger import (
    change_store,
    grant_store,
    host_store,
    journal_store,
)
from tokenworks.charging.ledger.model import Host, Release
from tokenworks.charging.ledger.part import LedgerPart


class Hosts(LedgerPart):
    """What the database knows of hosts and their journals."""

    # Journals.

    def register_journal(self, journal_id: UUID, host: str) -> int:
        return journal_store.register_journal(self._connection, journal_id, host)

    def settled_seq(self, journal_id: UUID) -> int | None:
        """What the database has settled of a journal; None where it does not know it."""
        return journal_store.settled_seq(self._connection, journal_id)

    def journals(self, journal_id: UUID | None = None) -> list[journal_store.KnownJournal]:
        """The journals that the database knows, or the one."""
        return journal_store.known(self._connection, journal_id)

    def reserved(self, journal_id: UUID) -> list[journal_store.OpenGrants]:
        """What a journal's host has been granted and has not settled, by unit."""
        return journal_store.reserved(self._connection, journal_id)

    def give_up_journal(self, journal_id: UUID, *, ended: bool) -> int:
        """Write off all open grants of a journal. `ended`: no process of its host spends of them any more. Returns how many.

        Raises `GrantNotInDoubt` where its host may still spend one; then none is written off.
        """
        with self._connection.transaction():
            grants = grant_store.open_grants(self._connection, journal_id)
            for account_id, _, grant_id, _, _ in grants:
                grant_store.write_off(
                    self._connection, UUID(account_id), UUID(grant_id), self._clock.now(), ended=ended
                )
        return len(grants)

    # Whether hosts live, and what they run.

    def hosts_alive(self, journal_id: UUID) -> int:
        """How many hosts live, this one included; says that it does."""
        return host_store.hosts_alive(self._connection, journal_id)

    def says_release(self, journal_id: UUID, release: Release) -> None:
        """A host begins with this release, or goes on with it."""
        host_store.says_release(self._connection, journal_id, release)

    def hosts(self) -> list[Host]:
        """Those that have not left, by name, with what they run."""
        return host_store.hosts(self._connection)

    def hosts_of_fleet(self) -> list[tuple[UUID, str, datetime]]:
        """(journal, host, when it was heard of) of the hosts that have not left in order, those that fell silent within a day, too."""
        return host_store.hosts_of_fleet(self._connection)

    def host_leaves(self, journal_id: UUID) -> None:
        host_store.host_leaves(self._connection, journal_id)

    # News to hosts.

    def changes(self, since: str | None) -> tuple[str, list[change_store.Change]]:
        """(from where to read on, what was said since `since`); nothing where that is None: this host begins now. Raises
        `ChangesMissed` where some of it is not kept any more.
        """
        horizon = change_store.horizon(self._connection)
        if since is None:
            return horizon, []
        found = change_store.changes(self._connection, since)
        if found is None:
            raise ChangesMissed("news to this host are not kept any more: it was away for too long")
        return horizon, found

    def forget_changes(self, keep: timedelta) -> int:
        """Delete news that are older. Returns how many."""
        total = 0
        while done := change_store.delete_old_changes(self._connection, keep):
            total += done
            if done < change_store.DELETED_AT_ONCE_MAX:
                break
        return total
