"""Metrics that an operator watches, each with its threshold, in one place. `python -m tokenworks.app.watch` writes from it the alert
rules of Prometheus (`deploy/prometheus/alerts.yml`), the table "What to watch" of the runbook and the table "Alerts" of OPERATIONS.md.
"""

import json
import re
from pathlib import Path
from typing import Final, Literal, NamedTuple

Severity = Literal["page", "ticket"]
ROOT: Final = Path(__file__).parents[3]
RUNBOOK: Final = ROOT / "docs/RUNBOOK.md"
OPERATIONS: Final = ROOT / "docs/OPERATIONS.md"
ALERTS: Final = ROOT / "deploy/prometheus/alerts.yml"
BEGIN: Final = "<!-- written by `python -m tokenworks.app.watch`: change it there -->"
END: Final = "<!-- to here -->"


class Alert(NamedTuple):
    """`page`: the heading of the runbook's page for it. `held`: how long the expression has to be true."""

    name: str
    expr: str
    held: str
    severity: Severity
    summary: str
    page: str


class WatchedMetric(NamedTuple):
    """A row of the table, and the alerts at its thresholds."""

    metrics: str
    alarm_at: str
    meaning: str
    alerts: tuple[Alert, ...]


def _rises(metric: str, minutes: int = 15) -> str:
    return f"increase({metric}[{minutes}m]) > 0"


WATCHED: Final = (
    WatchedMetric(
        "`up` of the host, which Prometheus has itself", "0 for 2 minutes", "the host does not answer: see *A lost host*",
        (Alert("TokenworksHostDown", 'up{job="tokenworks"} == 0', "2m", "page", "A host does not answer on its admin port.", "A lost host"),),
    ),
    WatchedMetric(
        "`tokenworks_single_role`", "1",
        "the host connects as a role that could change history: see *The database's roles*",
        (Alert("TokenworksSingleRole", "tokenworks_single_role == 1", "5m", "ticket", "The host's database role could change history.", "The database's roles"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_database_ok`", "0 for 30 s", "the database does not answer: see *The database is away*",
        (Alert("TokenworksDatabaseAway", "tokenworks_recorder_database_ok == 0", "30s", "page", "The database does not answer this host.", "The database is away"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_age_seconds`", "5",
        "the recorder does not report: of what it said before, only `…_database_ok` and `…_settling_ok` are exported, as 0. See *A recorder that hangs*",
        (Alert("TokenworksRecorderSilent", "tokenworks_recorder_age_seconds > 5", "0s", "page", "The recorder does not report.", "A recorder that hangs"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_oldest_unsettled_seconds`", "60", "settlement does not get on",
        (Alert("TokenworksSettlementBehind", "tokenworks_recorder_oldest_unsettled_seconds > 60", "0s", "page", "Records wait for the database.", "The database is away"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_unsettled_records`", "half of `tokenworks_unsettled_records_max`",
        "at that limit the host takes nothing new: see *The database is away*",
        (Alert("TokenworksUnsettledMany", "tokenworks_recorder_unsettled_records > 0.5 * tokenworks_unsettled_records_max", "0s", "page", "Half of the records that may wait for the database do.", "The database is away"),),
    ),
    WatchedMetric(
        '`tokenworks_failed_jobs{state="quarantined"}`', "1",
        "a product's cycle, a credit, a refund, a bill, an order's start or a provider's collection raises again and again: see *Failed jobs*",
        (Alert("TokenworksJobsQuarantined", 'sum by (job) (tokenworks_failed_jobs{state="quarantined"}) >= 1', "0s", "ticket", "Jobs raise again and again.", "Failed jobs"),),
    ),
    WatchedMetric(
        "`tokenworks_notices_oldest_seconds` by `channel`, `…_notices_failed` by `channel`", "3600 for 10 minutes; 100",
        "notices by text message or e-mail do not go out (those to the webhooks of subscribers fail where these are away): see *Notices do not arrive*",
        (
            Alert("TokenworksNoticesWait", 'max by (channel) (tokenworks_notices_oldest_seconds{channel!="webhook"}) > 3600', "10m", "ticket", "Notices by text message or e-mail wait for an hour.", "Notices do not arrive"),
            Alert("TokenworksNoticesFailed", 'max by (channel) (tokenworks_notices_failed{channel!="webhook"}) > 100', "0s", "ticket", "Notices by text message or e-mail were given up.", "Notices do not arrive"),
        ),
    ),
    WatchedMetric(
        "`tokenworks_recorder_quarantined_records`", "1", "the database refused a record: see *Quarantine*",
        (Alert("TokenworksRecordsQuarantined", "tokenworks_recorder_quarantined_records >= 1", "0s", "ticket", "The database refused usage records.", "Quarantine"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_in_doubt_grants`, `…_in_doubt_seconds`", "more than 0 for an hour",
        "a host does not settle what it was granted: see *A lost host*",
        (Alert("TokenworksGrantsInDoubt", "tokenworks_recorder_in_doubt_grants > 0", "1h", "ticket", "A host does not settle what it was granted.", "A lost host"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_journal_free_bytes`", "4 × `tokenworks_journal_reserve_bytes`", "the journal's disk fills: see *A full disk*",
        (Alert("TokenworksJournalDiskFills", "tokenworks_recorder_journal_free_bytes < 4 * tokenworks_journal_reserve_bytes", "0s", "page", "The journal's disk fills.", "A full disk"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_commit_seconds`", "0.05 at the 99th percentile for 5 minutes",
        "the end of every response waits for a commit of the journal (`…_journal_last_commit_seconds` is the last one's): see *A slow journal*",
        (Alert("TokenworksCommitsSlow", "histogram_quantile(0.99, sum by (le, instance) (rate(tokenworks_recorder_commit_seconds_bucket[5m]))) > 0.05", "5m", "ticket", "Commits of the journal are slow, and every response waits for one.", "A slow journal"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_requests_shed_total`, `…_requests_queue_timed_out_total`", "a rise",
        "a model's deployments are at their limits for longer than requests wait (`…_requests_queued` says how many do now, `tokenworks_queue_max` how many of a model may): raise the limits or add a deployment",
        (
            Alert("TokenworksRequestsShed", _rises("tokenworks_recorder_requests_shed_total"), "0s", "ticket", "Requests are shed: deployments are at their limits.", "What to watch"),
            Alert("TokenworksRequestsWaitTooLong", _rises("tokenworks_recorder_requests_queue_timed_out_total"), "0s", "ticket", "Requests wait too long: deployments are at their limits.", "What to watch"),
        ),
    ),
    WatchedMetric(
        "`tokenworks_model_attempts_failed_total` beside `…_model_attempts_total`", "half of them for 5 minutes",
        "a deployment gives nothing (its requests go to others, where there are some): see *Following one request*",
        (Alert("TokenworksDeploymentFails", "sum by (model, deployment) (rate(tokenworks_model_attempts_failed_total[5m])) > 0.5 * sum by (model, deployment) (rate(tokenworks_model_attempts_total[5m]))", "5m", "ticket", "A deployment fails half of its requests.", "Following one request"),),
    ),
    WatchedMetric(
        "`tokenworks_gateway_added_seconds`", "0.25 at the 99th percentile for 10 minutes",
        "what a host itself adds to requests, by protocol: its workers have not enough cores, or commits are slow",
        (Alert("TokenworksGatewaySlow", "histogram_quantile(0.99, sum by (le, protocol) (rate(tokenworks_gateway_added_seconds_bucket[5m]))) > 0.25", "10m", "ticket", "The gateway itself makes requests slow.", "What to watch"),),
    ),
    WatchedMetric(
        "`tokenworks_requests_open`", "90 % of `tokenworks_requests_max`, of a worker", "at that limit new requests get 429: add a worker or a host",
        (Alert("TokenworksRequestsAtLimit", "tokenworks_requests_open > on (instance) group_left () (0.9 * tokenworks_requests_max)", "1m", "ticket", "A worker has nearly all the requests that it takes at once.", "What to watch"),),
    ),
    WatchedMetric(
        "`tokenworks_connections_open`", "90 % of `tokenworks_connections_max`, of a worker", "at that limit new connections are closed: add a worker or a host",
        (Alert("TokenworksConnectionsAtLimit", "tokenworks_connections_open > on (instance) group_left () (0.9 * tokenworks_connections_max)", "1m", "ticket", "A worker has nearly all the connections that it takes.", "What to watch"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_peppers_lacking`", "1",
        "the works uses a pepper that this host has not: it is not ready. See *Another pepper, and a host that is refused for it*",
        (Alert("TokenworksPepperLacking", "tokenworks_recorder_peppers_lacking >= 1", "1m", "page", "The host lacks a pepper that the works uses.", "Another pepper, and a host that is refused for it"),),
    ),
    WatchedMetric(
        "`tokenworks_reload_failed`, `…_retired_processes`", "1; more than 0 for an hour",
        "the last reload was refused; processes of before still finish something: see *New settings, and a new release in place*",
        (
            Alert("TokenworksReloadFailed", "tokenworks_reload_failed == 1", "0s", "ticket", "The last reload was refused: the host serves as before.", "New settings, and a new release in place"),
            Alert("TokenworksRetiredProcesses", "tokenworks_retired_processes > 0", "1h", "ticket", "Processes of before a reload have not ended.", "New settings, and a new release in place"),
        ),
    ),
    WatchedMetric(
        "`tokenworks_release` by `release`, `schema`", "two values for an hour", "hosts run different releases: see *A new release*",
        (Alert("TokenworksReleasesDiffer", "count(count by (release, schema) (tokenworks_release)) > 1", "1h", "ticket", "Hosts run different releases.", "A new release"),),
    ),
    WatchedMetric(
        "`tokenworks_archive_behind_seconds`", "600",
        "the database's log can't be kept in `archive_to` (`…_archive_failures_total`, `…_archive_files_total`): see *The archive is behind*",
        (Alert("TokenworksArchiveBehind", "tokenworks_archive_behind_seconds > 600", "0s", "page", "The database's log can't be kept in the archive.", "The archive is behind"),),
    ),
    WatchedMetric(
        "`tokenworks_snapshot_age_ms`", "60 000",
        "a worker hears nothing new; at `tokenworks_key_max_stale_s` it admits nothing",
        (Alert("TokenworksSnapshotOld", "tokenworks_snapshot_age_ms > 60000", "0s", "page", "A worker hears nothing new from the database.", "The database is away"),),
    ),
    WatchedMetric(
        "`tokenworks_certificate_expires_s`, `…_certificate_not_loaded`", "less than two weeks (14 days) ahead; 1",
        "see *Renewing certificates and credentials*; 0 where the public port has none",
        (
            Alert("TokenworksCertificateEnds", "tokenworks_certificate_expires_s > 0 and tokenworks_certificate_expires_s - time() < 14 * 86400", "0s", "ticket", "The public port's certificate ends within two weeks.", "Renewing certificates and credentials"),
            Alert("TokenworksCertificateNotLoaded", "tokenworks_certificate_not_loaded == 1", "1m", "ticket", "The last new certificate could not be loaded.", "Renewing certificates and credentials"),
        ),
    ),
    WatchedMetric(
        "`tokenworks_loss_tokens_total` by `cause`", "a rise", "what nobody could be charged for: see *Losses*",
        (Alert("TokenworksLosses", "sum by (cause) (increase(tokenworks_loss_tokens_total[15m])) > 0", "0s", "ticket", "Tokens were produced that nobody pays for.", "Losses"),),
    ),
    WatchedMetric(
        "`tokenworks_beyond_maximum_tokens_total`, `…_cut_at_maximum_total`", "a rise",
        "a deployment makes more than the maximum that it was sent: what is beyond is loss, and its streams are cut. Give it the profile or the `--max-tokens-field` that it reads (`deployment set`)",
        (
            Alert("TokenworksBeyondMaximum", _rises("tokenworks_beyond_maximum_tokens_total"), "0s", "ticket", "A deployment makes more than the maximum that it was sent.", "Losses"),
            Alert("TokenworksCutAtMaximum", _rises("tokenworks_cut_at_maximum_total"), "0s", "ticket", "Streams are cut at the maximum that their deployment ignores.", "Losses"),
        ),
    ),
    WatchedMetric(
        "`tokenworks_abandoned_total`, `…_drained_total`", "a rise beside `…_requests_total`: a fifth of them for 15 minutes",
        "clients leave before their answers end; drained is what was read to its end all the same and charged as complete. See *Clients that leave*",
        (Alert("TokenworksClientsLeave", "sum by (instance) (rate(tokenworks_abandoned_total[15m])) > 0.2 * sum by (instance) (rate(tokenworks_requests_total[15m]))", "15m", "ticket", "A fifth of the requests is left by their clients.", "Clients that leave"),),
    ),
    WatchedMetric(
        "`tokenworks_free_rider_*_total`", "a rise of one of them beside `…_requests_total`",
        "requests of the kinds that a client without intent to pay makes; honest clients make some, too: see *Clients that leave*",
        (),
    ),
    WatchedMetric(
        "`tokenworks_recorder_accounts_over_loss_budget`", "1",
        "an account's requests were produced and not charged beyond `tokenworks_operator_loss_budget_tokens` today: see *Losses*",
        (Alert("TokenworksLossBudgetSpent", "tokenworks_recorder_accounts_over_loss_budget >= 1", "0s", "ticket", "Account(s) over the loss budget: tokens were produced for them and not charged.", "Losses"),),
    ),
    WatchedMetric(
        "`tokenworks_tokenizer_timeouts_total`, `…_tokenizer_refused_total`", "a rise",
        "the host's tokenizer process is slow, full or away (the log says `supervisor.child_died` or `child_silent` of `tokenizer`; `…_tokenizer_waiting` says how many counts wait, of `tokenworks_tokenize_queue_max`, `…_tokenizer_jobs_total` how many were asked for): what it does not count is bounded by bytes, and what that misses is in the account's loss budget; raise `tokenize_timeout_s` or `tokenize_queue_max`, or give the host a processor more",
        (
            Alert("TokenworksTokenizerSlow", _rises("tokenworks_tokenizer_timeouts_total"), "0s", "ticket", "The tokenizer process does not count in time.", "What to watch"),
            Alert("TokenworksTokenizerFull", _rises("tokenworks_tokenizer_refused_total"), "0s", "ticket", "The tokenizer process is full or away.", "What to watch"),
        ),
    ),
    WatchedMetric(
        "`tokenworks_memory_used_bytes`", "half of `tokenworks_memory_bytes_max` for 5 minutes",
        "bytes of requests and answers in flight of a worker (`…_memory_peak_bytes`: the most since it began); `tokenworks_memory_refused_total` counts what was refused for want of room, `tokenworks_slow_readers_cut_total` the streams that were cut for it: see *A worker's memory is full*",
        (Alert("TokenworksMemoryFills", "tokenworks_memory_used_bytes > on (instance) group_left () (0.5 * tokenworks_memory_bytes_max)", "5m", "ticket", "Half of a worker's memory budget is in flight.", "A worker's memory is full"),),
    ),
    WatchedMetric(
        "`tokenworks_loop_busy_second_ms`", "100 for a minute",
        "the longest that a worker's loop computed at a stretch in the last second: everything else waited. `tokenworks_loop_lag_second_ms` far above it: the host has not enough cores. `…_loop_busy_max_ms` and `…_loop_lag_max_ms` are the most since the worker began, `…_loop_lag_ms` is a histogram",
        (Alert("TokenworksLoopBusy", "tokenworks_loop_busy_second_ms > 100", "1m", "ticket", "A worker computes so long at a stretch that others wait.", "What to watch"),),
    ),
    WatchedMetric(
        "`tokenworks_request_lines_left_out_total`", "a rise of 1000 in 15 minutes",
        "requests fail or are refused faster than the log of requests takes lines: see *Following one request*",
        (Alert("TokenworksRequestsFail", "increase(tokenworks_request_lines_left_out_total[15m]) > 1000", "0s", "ticket", "Requests fail or are refused in great number.", "Following one request"),),
    ),
    WatchedMetric(
        "`tokenworks_recorder_clock_skew_seconds`, `…_clock_off`", "1; 1",
        "this host's clock is not the database's (`…_clock_offset_seconds` has the sign, `…_clock_error_seconds` how far off that may be, `tokenworks_clock_skew_max_s` how far it may be): see *A clock that jumps*",
        (
            Alert("TokenworksClockDrifts", "tokenworks_recorder_clock_skew_seconds > 1", "0s", "ticket", "This host's clock is not the database's.", "A clock that jumps"),
            Alert("TokenworksClockOff", "tokenworks_recorder_clock_off == 1", "0s", "page", "This host's clock is off, and it takes no new requests.", "A clock that jumps"),
        ),
    ),
)  # fmt: skip


def anchor(page: str) -> str:
    """A heading's address, as GitHub and most renderers make it."""
    return re.sub(r"[^a-z0-9 -]", "", page.lower()).replace(" ", "-")


def table() -> str:
    """The table of the runbook, with the marks around it."""
    lines = [BEGIN, "| metric | alarm at | what it means | alert |", "|---|---|---|---|"]
    for row in WATCHED:
        names = ", ".join(f"`{alert.name.removeprefix('Tokenworks')}`" for alert in row.alerts)
        lines.append(f"| {row.metrics} | {row.alarm_at} | {row.meaning} | {names} |")
    return "\n".join([*lines, END])


def alert_table() -> str:
    """The table of OPERATIONS.md, with the marks around it: from an alert or its metrics to the page."""
    lines = [BEGIN, "| alert, or its metric | page |", "|---|---|"]
    for row in WATCHED:
        pages = {alert.page: None for alert in row.alerts} or {"What to watch": None}
        if "see *" in row.meaning:
            pages |= dict.fromkeys(re.findall(r"[Ss]ee \*([^*]+)\*", row.meaning))
        seen = [f"`{alert.name}`" for alert in row.alerts] + [f"`{name}`" for name in metrics_of(row)]
        links = ", ".join(f"[{page}](RUNBOOK.md#{anchor(page)})" for page in pages)
        lines.append(f"| {', '.join(seen)} | {links} |")
    return "\n".join([*lines, END])


def metrics_of(row: WatchedMetric) -> list[str]:
    """The metrics of a row by their full names: `…_suffix` stands for a metric with the first one's prefix."""
    names = re.findall(r"`((?:tokenworks|…)_[^`{]+)[^`]*`|`(up)`", row.metrics)
    family = "tokenworks_recorder_" if "tokenworks_recorder_" in row.metrics else "tokenworks_"
    return [(name or up).replace("…_", family) for name, up in names]


def rules() -> str:
    """The file of rules, in YAML. Texts are written as JSON strings, which are valid YAML."""
    lines = [
        "# Written by `python -m tokenworks.app.watch`: change it there. Addresses are those of the runbook in this repository.",
        "groups:",
        "  - name: tokenworks",
        "    rules:",
    ]
    for row in WATCHED:
        for alert in row.alerts:
            lines += [
                f"      - alert: {alert.name}",
                f"        expr: {json.dumps(alert.expr)}",
                f"        for: {alert.held}",
                "        labels:",
                f"          severity: {alert.severity}",
                "        annotations:",
                f"          summary: {json.dumps(alert.summary)}",
                f"          alarm_at: {json.dumps(row.alarm_at, ensure_ascii=False)}",
                f"          runbook_url: {json.dumps(f'docs/RUNBOOK.md#{anchor(alert.page)}')}",
            ]
    return "\n".join(lines) + "\n"


def with_table(text: str, written: str) -> str:
    """The document with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    return before + written + rest.partition(END)[2]


def main() -> None:
    ALERTS.parent.mkdir(parents=True, exist_ok=True)
    ALERTS.write_text(rules(), encoding="utf-8")
    for path, written in ((RUNBOOK, table()), (OPERATIONS, alert_table())):
        path.write_text(with_table(path.read_text(encoding="utf-8"), written), encoding="utf-8")


if __name__ == "__main__":
    main()
