"""Tests mirror modules: `src/tokenworks/<room>/<module>.py` has `tests/<room>/test_<module>.py`, or an argument why not.

An argument names modules by patterns below `src/tokenworks` and the tests that hold them. A pattern that argues for nothing any more has
to go: its modules have tests of their own by now, or are gone.
"""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src/tokenworks", ROOT / "tests"


class Argument(NamedTuple):
    why: str
    tests: tuple[str, ...]
    modules: tuple[str, ...]


ARGUMENTS = (
    Argument(
        "named facts: they are tested where they are raised, and their HTTP status by the routes",
        ("api/tmf/test_tmf.py",),
        ("**/errors.py",),
    ),
    Argument(
        "SQL: its service's tests run it on PostgreSQL, and each statement is looked at by itself",
        ("app/test_sql.py",),
        ("**/store.py", "**/*_store.py"),
    ),
    Argument(
        "what is read of another gateway is tested as the command makes it, from its files to the rows and the report",
        ("cli/test_foreign.py",),
        ("app/importing/*.py",),
    ),
    Argument(
        "words without rules of their own: every test of the room is of them",
        ("app/database/test_sealing.py",),
        (
            "catalog/counts.py", "charging/model.py", "charging/ledger/model.py", "charging/money/model.py", "charging/ledger/followed.py",
            "charging/ledger/part.py",
            "trust/identity/roles.py", "trust/model.py",
        ),
    ),
    Argument(
        "the auditor: each check is shown to find what is changed, row by row",
        ("charging/mutations/test_mutations.py", "app/test_coverage.py"),
        ("charging/ledger/verify/*.py", "app/verifier.py", "app/verify_worker.py"),
    ),
    Argument(
        "parts of the ledger: tested together as `Ledger`, by what goes wrong and by what is read",
        ("charging/ledger/test_accounts.py", "charging/test_trouble.py", "charging/test_flat_reads.py", "charging/host/test_limits.py"),
        ("charging/ledger/grants.py", "charging/ledger/limits.py", "charging/ledger/quarantine.py", "charging/ledger/recalls.py",
         "charging/ledger/service.py", "charging/ledger/usage.py"),
    ),
    Argument(
        "settlement, history and jobs: tested by what they make of records, over the real tables",
        ("charging/ledger/test_chain.py", "charging/test_routing_note.py", "subscriptions/test_failures.py", "e2e/test_following.py",
         "subscriptions/test_transfers.py"),
        ("charging/ledger/settle_rows.py", "charging/ledger/failures.py", "charging/ledger/following.py", "charging/ledger/transfers.py"),
    ),
    Argument(
        "money: a year of it is simulated, and every charge's revenue is recomputed",
        ("billing/test_year.py", "billing/test_bills.py", "charging/mutations/test_mutations.py"),
        ("charging/money/adjustments.py", "charging/money/charges.py", "charging/money/revenue.py"),
    ),
    Argument(
        "the recorder, its grants and its wire: simulated as a whole over thousands of schedules, and killed for real",
        ("sim/test_sim.py", "sim/test_recorder.py", "charging/ledger/test_turn_store.py", "e2e/test_faults.py", "e2e/test_backup.py",
         "charging/test_disjoint.py"),
        ("charging/host/account.py", "charging/host/provisioning.py", "charging/host/grants.py", "charging/host/leases.py",
         "charging/host/port.py", "charging/host/recorder.py", "charging/host/settlement.py", "charging/host/journal_copy.py",
         "charging/host/worker_connection.py", "charging/wire.py", "charging/worker/account.py", "charging/worker/admission.py"),
    ),
    Argument(
        "messages: each kind is read and refused as bytes, and a journal of an older release is settled",
        ("charging/test_messages.py", "charging/test_old_journal.py", "charging/worker/test_client.py", "app/process/test_key_lookups.py"),
        ("charging/payload.py", "charging/questions.py", "charging/wiring_messages.py", "charging/host/journal_inspection.py",
         "charging/worker/pending.py"),
    ),
    Argument(
        "the catalogue: files, versions and drafts are tested from the file to what is on sale",
        ("catalog/test_file.py", "api/tmf/test_drafts.py", "shop/test_offers.py"),
        ("catalog/catalogue.py", "catalog/drafts.py", "catalog/model.py", "catalog/service.py"),
    ),
    Argument(
        "the factory: data and models that its other tests are made with, and a service that the command line tests",
        ("factory/facts/test_profiles.py", "factory/placing/test_placement.py", "factory/simulation/test_simulate.py",
         "factory/intents/test_choice.py", "cli/test_factory.py"),
        ("factory/decide.py", "factory/facts/probe.py", "factory/intents/labelled.py",
         "factory/fleet_file.py", "factory/service.py", "factory/simulation/engine.py", "factory/simulation/traces.py"),
    ),
    Argument(
        "who asks, and secrets: tested by what a person, a staff member or a host may do with them",
        ("trust/identity/test_service.py", "trust/keys/test_service.py", "trust/vault/test_persons.py", "trust/vault/test_service.py",
         "web/test_repeats.py", "web/test_two_persons.py", "e2e/test_rotation.py"),
        ("trust/hosts.py", "trust/pepper_versions.py", "trust/webhook_secret.py", "trust/identity/answers.py", "trust/identity/approvals.py", "trust/identity/money_moves.py",
         "trust/keys/pepper.py", "trust/vault/lookup.py", "trust/vault/secrets.py", "trust/vault/skeleton.py"),
    ),
    Argument(
        "settings: tested together, as they are loaded",
        ("app/settings/test_load.py", "app/test_docs.py"),
        ("app/settings/*.py",),
    ),
    Argument(
        "commands: tested as they are run, by what an operator does",
        ("cli/test_main.py", "cli/test_orders.py", "cli/test_thin.py", "runbook/test_operations.py"),
        ("cli/*.py", "app/blocked_keys.py", "app/curves.py", "app/calibration.py", "app/install.py", "app/psql.py", "app/restore_checks.py", "app/tables.py",
         "app/views.py"),
    ),
    Argument(
        "wiring, generated pages and metrics: tested against what they are made from",
        ("app/test_docs.py", "app/test_deploy.py", "test_testing.py"),
        ("app/outside.py", "cli/reference.py", "app/openapi.py", "app/exposition.py", "app/embedded.py"),
    ),
    Argument(
        "the database's processes: tested with a real cluster, its archive and its restore",
        ("app/database/test_embedded.py", "app/database/test_archive.py", "cli/test_backup.py", "e2e/test_backup.py",
         "subscriptions/people/test_privacy.py"),
        ("app/database/locks.py", "app/database/backup.py", "app/database/backup_reader.py", "app/database/connections.py",
         "app/database/guardian.py", "app/database/manifest.py", "app/database/recovery.py", "app/database/restore.py", "app/database/s3.py", "app/database/text_columns.py",
         "app/database/wal_handover.py", "app/sealed.py"),
    ),
    Argument(
        "the server's processes: tested as real ones, which are reloaded, stopped, killed and lied to",
        ("e2e/test_reload.py", "e2e/test_worker_end.py", "e2e/test_hangs.py", "e2e/test_rolling.py", "app/test_exposure.py",
         "subscriptions/test_failures.py", "api/account/test_sign_in.py"),
        ("app/process/change_feed.py", "app/process/control.py", "app/process/handover.py", "app/process/host_conditions.py",
         "app/process/host_metrics.py", "app/process/jobs.py", "app/process/journal_takeover.py", "app/process/listeners.py",
         "app/process/recall_listener.py", "app/process/recorder.py", "app/process/recorder_report.py", "app/process/reload_wait.py",
         "app/process/reloading.py", "app/process/renewal.py", "app/process/report_file.py", "app/process/served.py", "app/process/starting.py",
         "app/process/stored_snapshot.py", "app/process/supervisor.py", "app/process/trial.py", "app/process/worker.py",
         "app/process/worker_questions.py", "app/ports/messages.py", "app/webhook_secrets.py"),
    ),
    Argument("the demo: run as a whole", ("e2e/test_demo.py",), ("app/demo/*.py",)),
    Argument(
        "parts of a request: their tests are of requests over sockets and over what the wire holds",
        ("e2e/test_http.py", "e2e/test_protocols.py", "edge/test_cases.py", "gateway/http/test_fuzz.py", "gateway/protocol/fields/test_sdk.py"),
        ("gateway/*.py", "gateway/http/*.py", "gateway/protocol/*.py", "gateway/protocol/fields/*.py", "gateway/request/*.py"),
    ),
    Argument(
        "the form and the interface of translation: types alone, which each codec's tests read and write",
        ("gateway/translate/chat/test_writer.py", "gateway/translate/test_translation.py"),
        ("gateway/translate/codec.py", "gateway/translate/form.py"),
    ),
    Argument(
        "the codec of messages: what is read and written as a whole, by its rules and by whatever a client or a deployment may send",
        ("gateway/translate/messages/test_read_request.py", "gateway/translate/messages/test_write_request.py",
         "gateway/translate/messages/test_answers.py", "gateway/translate/messages/test_reader.py", "gateway/translate/messages/test_writer.py"),
        ("gateway/translate/messages/*.py",),
    ),
    Argument(
        "the codec of responses: parts of its readers and writers, tested by whole requests, answers and streams",
        ("gateway/translate/responses/test_responses_codec.py", "gateway/translate/responses/test_requests.py",
         "gateway/translate/responses/test_request_writer.py", "gateway/translate/responses/test_reader.py",
         "gateway/translate/responses/test_writer.py"),
        ("gateway/translate/responses/content.py", "gateway/translate/responses/items.py", "gateway/translate/responses/reader_items.py",
         "gateway/translate/responses/reasoning.py", "gateway/translate/responses/shapes.py", "gateway/translate/responses/values.py",
         "gateway/translate/responses/writer_parts.py"),
    ),
    Argument(
        "translation: the parts of a codec are tested by what it reads and writes",
        ("gateway/translate/chat/test_read_request.py", "gateway/translate/chat/test_write_request.py", "gateway/translate/chat/test_reader.py",
         "gateway/translate/chat/test_writer.py", "gateway/translate/chat/test_answers.py"),
        ("gateway/translate/chat/*.py",),
    ),
    Argument(
        "orders and subscribers: tested by what a subscriber does, over months",
        ("subscriptions/test_service.py", "subscriptions/orders/test_change.py", "subscriptions/people/test_privacy.py",
         "app/test_webhooks.py"),
        ("subscriptions/*.py", "subscriptions/hub/*.py", "subscriptions/orders/*.py", "subscriptions/people/*.py"),
    ),
    Argument(
        "bills: tested by what happens to money in a month and in a year",
        ("billing/test_bills.py", "billing/test_year_of_trouble.py", "shop/test_open_items.py"),
        ("billing/*.py",),
    ),
    Argument(
        "customer texts: each language is compared with the others, and pages are read in both",
        ("texts/test_texts.py", "pages/test_pages.py"),
        ("texts/*.py",),
    ),
    Argument(
        "pages and routes: tested as a person or a system uses them",
        ("pages/test_pages.py", "pages/test_walks.py", "api/tmf/test_tmf.py", "api/account/test_sign_in.py", "web/test_roles.py",
         "web/test_edge.py", "web/test_fuzz.py", "e2e/test_developers.py"),
        ("api/account/*.py", "api/developers/*.py", "api/operations/*.py", "api/tmf/*.py", "app/http_app.py", "pages/*.py", "web/*.py"),
    ),
)  # fmt: skip


def unmirrored(source, tests):
    """Modules without a test of the same place and name; migrations are tested as the steps that they are."""
    found = []
    for path in sorted(source.rglob("*.py")):
        module = path.relative_to(source)
        if module.name not in {"__init__.py", "__main__.py"} and "migrations" not in module.parts:
            if not (tests / module.parent / f"test_{module.name}").exists():
                found.append(module)
    return found


def test_a_module_has_a_test_of_its_name_or_an_argument():
    argued = [pattern for argument in ARGUMENTS for pattern in argument.modules]
    lacking = unmirrored(SOURCE, TESTS)
    bare = [str(module) for module in lacking if not any(matches(module, pattern) for pattern in argued)]
    assert not bare, f"no test of this place and name, and no argument: {bare}"


def test_no_argument_is_left_over():
    lacking = unmirrored(SOURCE, TESTS)
    for argument in ARGUMENTS:
        idle = [p for p in argument.modules if not any(matches(module, p) for module in lacking)]
        assert not idle, f"they have tests of their own by now, or are gone: {idle}"
        gone = [name for name in argument.tests if not (TESTS / name).exists()]
        assert not gone, f"an argument names tests that are not there: {gone}"


def matches(module, pattern):
    """`**/` stands for any folders, none too; `*` for a part of one name."""
    if pattern.startswith("**/"):
        return module.match(pattern.removeprefix("**/"))
    return len(module.parts) == pattern.count("/") + 1 and module.match(pattern)


def test_what_has_no_test_is_found(tmp_path):
    for name in ("src/room/a.py", "src/room/b.py", "src/room/__init__.py", "tests/room/test_a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert unmirrored(tmp_path / "src", tmp_path / "tests") == [Path("room/b.py")]
    assert matches(Path("room/b.py"), "room/*.py") and not matches(Path("room/deep/b.py"), "room/*.py")
    assert matches(Path("room/deep/store.py"), "**/store.py") and not matches(
        Path("room/other.py"), "**/store.py"
    )
