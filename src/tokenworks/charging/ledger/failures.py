"""Failed jobs. A job for one product, order, refund or subscriber that raises does not block the other jobs.

A job that raises is rolled back, stored with its reason, and retried after growing delays. After `ATTEMPTS_MAX` attempts the job is
quarantined with an alarm, until an operator releases it. The delay loses nothing: a cycle begins where the last one ended, and a
bill includes all that is charged before its end.
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
# The delay before the second attempt; each further delay is twice as long.
FIRST_WAIT: Final = timedelta(minutes=1)
LIST_MAX: Final = 1000
REASON_CHARS_MAX: Final = 500
JOB_NAMES: Final[tuple[JobName, ...]] = get_args(JobName)
JOB_STATES: Final[tuple[JobState, ...]] = get_args(JobState)


class FailedJobs:
    """The failed jobs, on one database connection."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    def run(self, job: JobName, ref: UUID, do: Callable[[], object]) -> bool:
        """Run a job in its own transaction. Returns True if it succeeded, False if it raised and was stored as failed.

        If the connection is lost, the job is not at fault: the error is raised.
        """
        try:
            with self._connection.transaction():
                do()
        except Exception as error:  # any error of one job must not stop the others
            if self._connection.closed or self._connection.broken:
                raise
            self.note(job, ref, error)
            return False
        return True

    def note(self, job: JobName, ref: UUID, error: Exception) -> None:
        """Store that a job raised. This runs after the job's transaction is rolled back."""
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
        """Forget an earlier failure of a job that succeeds now. Runs in the job's transaction."""
        failure_store.forget(self._connection, job, ref)

    def waiting(self, job: JobName) -> list[UUID]:
        """The jobs that must not run now: quarantined ones, and those whose next attempt is later."""
        return failure_store.waiting(self._connection, job, self._clock.now())

    def all(self) -> list[FailedJob]:
        """All failed jobs, oldest first."""
        return failure_store.all_of(self._connection, LIST_MAX)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many failed jobs there are by (job, state)."""
        return failure_store.counts(self._connection)

    def release(self, job: JobName, ref: UUID) -> None:
        """Let the next run try the job again, with a full number of attempts. Raises `FailedJobNotFound`."""
        if not failure_store.forget(self._connection, job, ref):
            raise FailedJobNotFound(f"there is no failed job {job} {ref}: `tokenworks job list` shows them")
