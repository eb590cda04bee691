"""What the recorder reports of itself once a second, in a file of the run directory: the control plane exports it as metrics."""

import json
import os
from collections.abc import Iterable
from typing import Final

from tokenworks.app.process.change_feed import ChangeFeed
from tokenworks.app.process.host_conditions import HostConditions
from tokenworks.app.process.report_file import REPORT_FILE
from tokenworks.app.settings import Settings
from tokenworks.charging import COMMIT_US, SETTLE_US, Recorder

US_PER_S: Final = 1_000_000


def write_report(
    recorder: Recorder, feed: ChangeFeed, conditions: HostConditions, settings: Settings
) -> None:
    """Replace the file by the state of now. Raises `OSError` where the disk is full."""
    path = settings.run_dir / REPORT_FILE
    half = path.with_suffix(".new")
    half.write_text(json.dumps(_report(recorder, feed, conditions)))
    half.replace(path)


def _report(recorder: Recorder, feed: ChangeFeed, conditions: HostConditions) -> dict[str, object]:
    settler = recorder.settler
    grants = [
        bucket
        for account in recorder.grants.accounts.values()
        for bucket in account.buckets.values()
        if bucket.grant_id
    ]
    in_doubt_grants, in_doubt_mtok, in_doubt_s = feed.state.in_doubt
    report: dict[str, object] = {
        "pid": os.getpid(),
        "database_ok": int(feed.database_ok),
        "settling_ok": int(settler.failing_since_s is None),
        "journal_commits": recorder.journal.commits,
        "journal_commit_seconds": recorder.commit_ns_total / 1e9,
        "journal_last_commit_seconds": recorder.journal.last_commit_s,
        "written_seq": recorder.journal.next_seq - 1,
        "settled_seq": settler.settled_seq,
        "unsettled_records": settler.backlog,
        "oldest_unsettled_seconds": settler.oldest_s,
        "quarantined_records": feed.state.quarantined,
        "loss_tokens": dict(settler.lost_tokens),
        "accounts_over_loss_budget": len(recorder.losses.over),
        "hosts": feed.state.hosts,
        "clock_skew_seconds": abs(conditions.skew_s),
        "clock_offset_seconds": conditions.skew_s,
        "clock_error_seconds": conditions.clock_error_s,
        "clock_off": int(conditions.clock_off),
        "peppers_lacking": len(feed.state.peppers_lacking),
        "in_doubt_grants": in_doubt_grants,
        "in_doubt_mtok": in_doubt_mtok,
        "in_doubt_seconds": in_doubt_s,
        "journal_free_bytes": conditions.check_disk(),
        "journal_full": int(conditions.journal_full),
        "settled_records": settler.applied,
        "settle_batches": settler.batches,
        "settle_cpu_seconds": settler.cpu_ns / 1e9,
        "histograms": {
            "commit_seconds": [US_PER_S, list(COMMIT_US), recorder.commits.wire()],
            "settle_seconds": [US_PER_S, list(SETTLE_US), settler.times.wire()],
        },
        "open_attempts": len(recorder.attempts),
        "workers": len(recorder.workers),
        "requests_queued": recorder.queues.waiting,
        "requests_shed": recorder.queues.shed,
        "requests_queue_timed_out": recorder.queues.timed_out,
        "grant_wait_p50_seconds": _quantile(recorder.grants.waits_s, 50),
        "grant_wait_p99_seconds": _quantile(recorder.grants.waits_s, 99),
        "open_grants": len(grants),
        "granted_mtok": sum(bucket.amount - bucket.used for bucket in grants if bucket.terms.unit == "token"),
    }
    if feed.archive is not None:
        report |= {
            "archive_files": feed.archive.files,
            "archive_failures": feed.archive.failures,
            "archive_behind_seconds": feed.archive.behind_s,
        }
    return report


def _quantile(values: Iterable[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) * percent // 100] if ordered else 0.0
