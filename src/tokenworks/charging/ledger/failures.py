"""Jobs that raise: one that is about one product, order, refund or subscriber keeps no other from its turn.

What raises is rolled back, written down with its reason, and tried again after growing waits. After `ATTEMPTS_MAX` attempts it
is in quarantine, with an alarm, until it is released by hand: once its cause is mended, nothing is lost by the delay, for a cycle
begins where the last one ended, and a bill takes up all that is charged before its end.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Final, get_args
from uuid import UUID

from psycopg import Connection

from tokenworks.charging.errors import FailedJobNotFound
from tokenworks.charging.ledger import failure_store
from tokenworks.charging.ledger.model import FailedJob, JobName, JobState
from tokenworks.kernel import Clock

ATTEMPTS_MAX: Final = 4
# Of the first wait; each one more is twice as long.
FIRST_WAIT: Final = timedelta(minutes=1)
LIST_MAX: Final = 1000
REASON_CHARS_MAX: Final = 500
JOB_NAMES: Final[tuple[JobName, ...]] = get_args(JobName)
JOB_STATES: Final[tuple[JobState, ...]] = get_args(JobState)


class FailedJobs:
    """On one connection."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def run(self, job: JobName, ref: UUID, do: Callable[[], object]) -> bool:
        """Do a job in a transaction of its own. Returns whether it is done; False where it raised, and is written down.

        Where the connection is lost nobody is at fault, and the error is raised.
        """
        try:
            with self._connection.transaction():
                do()
        except Exception as error:  # whatever it is, it is this one's alone
            if self._connection.closed or self._connection.broken:
                raise
            self.note(job, ref, error)
            return False
        return True

    def note(self, job: JobName, ref: UUID, error: Exception) -> None:
        """Write down that a job raised, outside the transaction that it rolled back."""
        now = self._clock.now()
        before = failure_store.find(self._connection, job, ref)
        attempts = 1 if before is None else before.attempts + 1
        reason = f"{type(error).__name__}: {error}".replace("\x00", "").strip().splitlines()[0]
        quarantined = attempts >= ATTEMPTS_MAX
        failure_store.note(
            self._connection, job, ref, reason[:REASON_CHARS_MAX], now, now + FIRST_WAIT * 2 ** (attempts - 1),
            "quarantined" if quarantined else "retrying",
        )  # fmt: skip

        import structlog  # noqa: PLC0415 - nothing else of what commands import logs

        log = structlog.get_logger()
        if quarantined:
            log.critical("jobs.quarantined", job=job, ref=str(ref), attempts=attempts, reason=reason)
        else:
            log.error("jobs.failed", job=job, ref=str(ref), attempts=attempts, reason=reason)

    def done(self, job: JobName, ref: UUID) -> None:
        """One that raised before, and did not this time. In the transaction of what it did."""
        failure_store.forget(self._connection, job, ref)

    def waiting(self, job: JobName) -> list[UUID]:
        """What is not to be tried now: in quarantine, or before its next attempt."""
        return failure_store.waiting(self._connection, job, self._clock.now())

    def all(self) -> list[FailedJob]:
        """Oldest first."""
        return failure_store.all_of(self._connection, LIST_MAX)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many there are, by (job, state)."""
        return failure_store.counts(self._connection)

    def release(self, job: JobName, ref: UUID) -> None:
        """Try it again at the next run, with all its attempts before it. Raises `FailedJobNotFound`."""
        if not failure_store.forget(self._connection, job, ref):
            raise FailedJobNotFound(f"there is no failed job {job} {ref}: `tokenworks job list` shows them")
