"""Polls the database for changes (snapshot, keys, accounts, grants) and publishes them to the workers."""

import asyncio
from typing import Final, NamedTuple
from uuid import UUID

import structlog
from psycopg import Connection

from tokenworks.app.database.connections import ArchiveState, anchor_clock, archive_state, database_identity
from tokenworks.app.process.host_conditions import HostConditions
from tokenworks.app.process.host_secrets import HostReport
from tokenworks.app.process.stored_snapshot import read_snapshot
from tokenworks.app.settings import Settings
from tokenworks.catalog import RateCard, Weights
from tokenworks.charging import (
    DATABASE_ALIVE,
    MISSING_PEPPERS,
    SNAPSHOT,
    DatabaseAlive,
    DatabaseThread,
    Ledger,
    LedgerWentBack,
    MissingPeppers,
    Recorder,
)
from tokenworks.kernel import AnchoredClock, Unavailable
from tokenworks.trust import Keys, Peppers

log = structlog.get_logger()

POLL_S: Final = 0.5
HOST_STATE_S: Final = 2.0
RATES_MAX: Final = 100_000


class HostState(NamedTuple):
    """What the database says of this host, beside changes. `in_doubt`: grants, thousandths of tokens, seconds."""

    in_doubt: tuple[int, int, int]
    quarantined: int
    hosts: int
    peppers_lacking: list[int]


class ChangeFeed:
    """Polls the change sequence twice a second. A worker learns of a change from this poll alone."""

    def __init__(
        self,
        thread: DatabaseThread,
        recorder: Recorder,
        settings: Settings,
        clock: AnchoredClock,
        peppers: Peppers,
        host_report: HostReport,
        conditions: HostConditions,
    ) -> None:
        self._thread = thread
        self._recorder = recorder
        self._settings = settings
        self._clock = clock
        self._peppers = peppers
        self._host_report = host_report
        self._conditions = conditions
        self._xmin = "0"
        self._seen: set[int] = set()
        self._snapshots = 0
        self._cards: dict[str, RateCard] = {}
        self._rates: dict[tuple[str, str], tuple[str, Weights] | None] = {}
        self._database = ""
        self._state_read_s = -1e9
        self._clock_compared_s = -1e9
        self.database_ok = False
        self.state = HostState((0, 0, 0), 0, 1, [])
        # None: Tokenworks does not archive this host's database.
        self.archive: ArchiveState | None = None

    def rate(self, rate_version: str, model: str) -> tuple[str, Weights] | None:
        """The model's class and its weights in a version of a rate card; None where the version or the model is unknown.

        Raises `Unavailable` before the first poll: no record may be refused, and no request, because the rate cards are not read yet.
        """
        if not self._snapshots:
            raise Unavailable("the rate cards are not read yet")
        key = (rate_version, model)
        if key not in self._rates:
            card = self._cards.get(rate_version)
            if card is None:
                return None
            rate = card.rate_for(model)
            if len(self._rates) > RATES_MAX:
                self._rates.clear()
            self._rates[key] = None if rate is None else (rate.model_class, rate.weights())
        return self._rates[key]

    async def run(self) -> None:
        while True:
            try:
                await self.poll()
            except Unavailable:
                pass
            except (
                Exception
            ) as error:  # the database went back, or an invariant is broken: the next recorder begins anew
                self._recorder.fatal(error)
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Read what has changed since the last poll and publish it. Raises `Unavailable`, and `LedgerWentBack`."""
        first = not self._snapshots
        losses = self._recorder.losses
        lost: tuple[int, int, list[tuple[str, int]]] | None = None

        def read(connection: Connection) -> tuple[str, list[tuple[int, str, str]]]:
            nonlocal lost
            if losses.budget_tokens:
                # From half the budget on: what this host adds to it is known here before it is settled.
                lost = Ledger(connection, self._clock).losses_of_today(
                    self._recorder.journal.journal_id, losses.budget_tokens // 2
                )
            # A change that the last poll did not see has a transaction id from that poll's horizon on.
            return Ledger(connection, self._clock).changes(None if first else self._xmin)

        try:
            xmin, rows = await self._thread.run(read)
        except Unavailable:
            self.database_ok = False
            raise
        self.database_ok = True
        if lost is not None:
            losses.read(*lost)
        await self._compare_clocks()
        self._conditions.check_clock()
        if any(kind == "pepper" and seq not in self._seen for seq, kind, _ in rows):
            self._state_read_s = -1e9
        await self._read_state()
        changes = [row for row in rows if row[0] not in self._seen]
        self._seen = {row[0] for row in rows}
        self._xmin = xmin
        await self._publish(changes, snapshot=first)

    async def _publish(self, changes: list[tuple[int, str, str]], *, snapshot: bool) -> None:
        """`snapshot`: publish the snapshot whether or not it has changed."""
        refs: dict[str, list[str]] = {}
        for _, kind, ref in changes:
            refs.setdefault("account" if kind == "freeze" else kind, []).append(ref)
        if snapshot or "snapshot" in refs:
            await self._publish_snapshot()
        accounts = refs.get("account", [])
        for account_id in accounts:
            self._recorder.grants.account_changed(account_id)
        for ref in refs.get("grant", []):
            self._recorder.grants.close_soon(*ref.split(":"))
        self._recorder.grants.answer_recalls()
        self._recorder.publish(DATABASE_ALIVE, DatabaseAlive(refs.get("key", []), accounts), keep=False)

    async def _publish_snapshot(self) -> None:
        stored = await self._thread.run(lambda connection: read_snapshot(connection, self._clock))
        self._cards = stored.cards
        self._snapshots += 1
        # The number has to grow over restarts of the recorder, too.
        number = int(asyncio.get_running_loop().time() * 1000) * 1000 + self._snapshots % 1000
        self._recorder.publish(SNAPSHOT, stored.wire(number), keep=True)

    async def _compare_clocks(self) -> None:
        """Compare civil time with the database's, every `clock_check_s`."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._clock_compared_s >= self._settings.clock_check_s:
            await self._thread.run(lambda connection: anchor_clock(self._clock, connection))
            self._clock_compared_s = now_s

    async def _read_state(self) -> None:
        """Read the host's state, every `HOST_STATE_S`, and whether the database went back. Raises `LedgerWentBack`."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._state_read_s < HOST_STATE_S:
            return
        self._state_read_s = now_s
        waiting = self._recorder.settler.keys_used
        used = list({UUID(waiting.popleft().decode()) for _ in range(len(waiting))})
        # What was settled before the query must be settled in its answer.
        expected = self._recorder.settler.settled_seq

        def read(connection: Connection) -> HostState:
            self._check_went_back(connection, expected)
            ledger = Ledger(connection, self._clock)
            ledger.delete_old_recalls()
            ledger.delete_old_account_losses()
            if used:
                Keys(connection, self._peppers, self._clock, self._settings.environment).used(used)
            if self._settings.archive_to and not self._settings.database_url:
                self.archive = archive_state(connection)
            hosts = ledger.hosts_alive(self._recorder.journal.journal_id)
            lacking = self._host_report.tell(connection)
            return HostState(ledger.in_doubt(), len(ledger.quarantined()), hosts, lacking)

        before, self.state = self.state, await self._thread.run(read)
        lacking = self.state.peppers_lacking
        if lacking != before.peppers_lacking:
            log.critical("recorder.peppers_lacking", versions=lacking)
            self._recorder.publish(MISSING_PEPPERS, MissingPeppers(lacking), keep=True)
        self._recorder.limits.set_hosts(self.state.hosts)

    def _check_went_back(self, connection: Connection, expected: int) -> None:
        """Raises `LedgerWentBack` after a fail-over or a restore of the database: the next recorder replays the journal from what this
        database has settled, and grants nothing before that.
        """
        found = database_identity(connection)
        if self._database and found and found != self._database:
            raise LedgerWentBack(f"the database was {self._database}, and now is {found}")
        self._database = found or self._database
        settled = Ledger(connection, self._clock).settled_seq(self._recorder.journal.journal_id)
        if settled is None or settled < expected:
            raise LedgerWentBack(f"the database had settled {expected}, and now says {settled}")
