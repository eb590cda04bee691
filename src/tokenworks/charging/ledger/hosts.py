"""Hosts: their journals, whether they are alive, which release they run, and the change feed that they poll."""

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
    """The hosts and their journals, as the database knows them."""

    # Journals.

    def register_journal(self, journal_id: UUID, host: str) -> int:
        return journal_store.register_journal(self._connection, journal_id, host)

    def settled_seq(self, journal_id: UUID) -> int | None:
        """The settled sequence of a journal; None if the database does not know the journal."""
        return journal_store.settled_seq(self._connection, journal_id)

    def journals(self, journal_id: UUID | None = None) -> list[journal_store.KnownJournal]:
        """The journals that the database knows: all, or only the one given."""
        return journal_store.known(self._connection, journal_id)

    def reserved(self, journal_id: UUID) -> list[journal_store.OpenGrants]:
        """The quantity that a journal's host was granted and has not settled, by unit."""
        return journal_store.reserved(self._connection, journal_id)

    def give_up_journal(self, journal_id: UUID, *, ended: bool) -> int:
        """Write off all open grants of a journal. Returns how many. `ended`: no process of the host spends from them any more.

        Raises `GrantNotInDoubt` if the host may still spend from one of them; then none is written off.
        """
        with self._connection.transaction():
            grants = grant_store.open_grants(self._connection, journal_id)
            for account_id, _, grant_id, _, _ in grants:
                grant_store.write_off(
                    self._connection, UUID(account_id), UUID(grant_id), self._clock.now(), ended=ended
                )
        return len(grants)

    # Whether hosts are alive, and which release they run.

    def hosts_alive(self, journal_id: UUID) -> int:
        """Store that this host is alive. Returns how many hosts are alive, this one included."""
        return host_store.hosts_alive(self._connection, journal_id)

    def report_release(self, journal_id: UUID, release: Release) -> None:
        """Store the release that a host runs, when the host starts."""
        host_store.report_release(self._connection, journal_id, release)

    def hosts(self) -> list[Host]:
        """The hosts that have not left, by name, with their releases."""
        return host_store.hosts(self._connection)

    def hosts_of_fleet(self) -> list[tuple[UUID, str, datetime]]:
        """(journal, host, last seen) of the hosts that have not left, including those that fell silent within the last day."""
        return host_store.hosts_of_fleet(self._connection)

    def host_leaves(self, journal_id: UUID) -> None:
        host_store.host_leaves(self._connection, journal_id)

    # The change feed.

    def changes(self, since: str | None) -> tuple[str, list[change_store.Change]]:
        """(the position to read from next time, the changes since the position `since`).

        With None, for a host that starts now, there are no changes. Raises `ChangesMissed` if some of the changes are deleted.
        """
        horizon = change_store.horizon(self._connection)
        if since is None:
            return horizon, []
        found = change_store.changes(self._connection, since)
        if found is None:
            raise ChangesMissed("changes that this host has not read are deleted: it was away for too long")
        return horizon, found

    def forget_changes(self, keep: timedelta) -> int:
        """Delete the changes that are older than `keep`. Returns how many."""
        total = 0
        while done := change_store.delete_old_changes(self._connection, keep):
            total += done
            if done < change_store.DELETED_AT_ONCE_MAX:
                break
        return total
