"""The only wiring: rooms are put together here, on one connection or one process."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from tokenworks.app.database.connections import beside
from tokenworks.app.outside import OutsidePayments
from tokenworks.app.ports.real_name import real_name_check
from tokenworks.app.settings import Settings
from tokenworks.billing import (
    Bills,
    ChargeFiles,
    Disputes,
    Dunning,
    DunningPlan,
    OpenItems,
    Payments,
    Refunds,
)
from tokenworks.catalog import Drafts, Offerings
from tokenworks.charging import Adjustments, Charges, FailedJobs, Following, Ledger, Transfers
from tokenworks.factory import Deployments
from tokenworks.gateway import find_lines
from tokenworks.kernel import NANO_PER_UNIT, Clock, SystemClock
from tokenworks.subscriptions import (
    Consents,
    ConsentTexts,
    Deliveries,
    Hub,
    MemberRights,
    Members,
    Moves,
    Notices,
    Orders,
    PayAsYouGo,
    Privacy,
    PrivacyRules,
    Quotes,
    Sales,
    ServedKeys,
    Subscriptions,
)
from tokenworks.trust import (
    Answers,
    Approvals,
    Identity,
    Keys,
    PersonVault,
    VaultSecrets,
    load_peppers,
    load_vault_secrets,
)

Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Works:
    """Every room's service, on one database connection."""

    connection: Connection
    clock: Clock
    offerings: Offerings
    drafts: Drafts
    deployments: Deployments
    ledger: Ledger
    following: Following
    charges: Charges
    adjustments: Adjustments
    transfers: Transfers
    orders: Orders
    quotes: Quotes
    moves: Moves
    failed_jobs: FailedJobs
    deliveries: Deliveries
    hub: Hub
    payg: PayAsYouGo
    subscriptions: Subscriptions
    members: Members
    consents: Consents
    served: ServedKeys
    notices: Notices
    bills: Bills
    disputes: Disputes
    payments: Payments
    charge_files: ChargeFiles
    dunning: Dunning
    refunds: Refunds
    keys: Keys
    identity: Identity
    answers: Answers
    approvals: Approvals
    vault: PersonVault
    privacy: Privacy
    operator: str
    is_dev: bool
    fonts_dir: Path | None


def make_works(
    settings: Settings,
    connection: Connection,
    clock: Clock | None = None,
    peppers: dict[int, bytes] | None = None,
    vault_secrets: VaultSecrets | None = None,
) -> Works:
    """`peppers` and `vault_secrets` where the caller has loaded them already."""
    clock = clock or SystemClock()
    peppers = peppers or load_peppers(settings.secrets)
    vault = PersonVault(connection, vault_secrets or load_vault_secrets(settings.secrets))
    rules = _privacy_rules(settings)
    offerings = Offerings(connection, clock, is_dev=settings.environment == "dev")
    ledger = Ledger(connection, clock)
    charges = Charges(connection, clock)
    orders = Orders(connection, offerings, ledger, charges, clock, vault, rules)
    transfers = Transfers(connection, clock)
    keys = Keys(connection, peppers, clock, settings.environment)
    identity = Identity(connection, peppers, clock, vault, timedelta(days=settings.staff_token_days))
    members = Members(connection, ledger, clock, transfers, vault, keys)
    consents = Consents(connection, ledger, clock, rules, ConsentTexts(settings.consent_texts_dir))
    subscriptions = Subscriptions(
        connection, offerings, ledger, clock, orders, members, consents, vault, identity
    )
    charges.when_settled(OpenItems(connection, subscriptions, clock).settle)
    bills = Bills(
        connection, charges, subscriptions, clock, due_days=settings.bill_due_days, batch=settings.bill_run_batch
    )  # fmt: skip
    disputes = Disputes(connection, bills, subscriptions, clock)
    is_dev = settings.environment == "dev"
    payments = OutsidePayments(connection, bills, charges, subscriptions, clock, lambda: beside(connection))
    payments.charge_files = charge_files = ChargeFiles(
        connection, bills, payments, charges, subscriptions, clock, vault
    )
    payments.dunning = dunning = Dunning(connection, charges, subscriptions, clock, _dunning_plan(settings))
    refunds = Refunds(connection, charges, orders, subscriptions, clock)
    hub = Hub(
        connection, peppers, clock, vault, allow_private=settings.webhook_allow_private, need_tls=not is_dev
    )
    adjustments = Adjustments(connection, clock)
    privacy = Privacy(
        connection, vault, subscriptions, charges, keys, identity, clock, rules, settings.backup_days,
        lambda: real_name_check(settings), MemberRights(vault, ledger, transfers, keys, identity, clock),
        [charge_files.forget, bills.forget, payments.forget, refunds.forget, disputes.forget, hub.forget,
         lambda erased: adjustments.forget(erased.account_id), lambda erased: transfers.forget(erased.account_id)],
    )  # fmt: skip
    return Works(
        connection=connection, clock=clock, vault=vault, operator=settings.operator_name, is_dev=is_dev, fonts_dir=settings.fonts_dir,
        # What is sold, by what it is served, what is left of it.
        offerings=offerings, drafts=Drafts(connection, offerings, clock), deployments=Deployments(connection), ledger=ledger,
        following=_following(settings, connection, clock, offerings), charges=charges, adjustments=adjustments, transfers=transfers,
        failed_jobs=FailedJobs(connection, clock),
        # Who buys, and what is ordered.
        orders=orders, quotes=Quotes(connection, offerings, charges, orders, Sales(connection, offerings, ledger, charges, clock), clock, vault),
        moves=Moves(connection, offerings, clock, vault), deliveries=Deliveries(connection, orders, clock, vault), hub=hub,
        payg=PayAsYouGo(connection, offerings, ledger, charges, clock, vault), subscriptions=subscriptions, members=members,
        consents=consents, served=ServedKeys(connection, offerings, ledger, clock, rules), notices=Notices(connection, clock), privacy=privacy,
        # What is billed and paid.
        bills=bills, disputes=disputes, payments=payments, charge_files=charge_files,
        dunning=dunning, refunds=refunds,
        # Who asks, and what needs a second person.
        keys=keys, identity=identity, answers=Answers(connection, clock, vault),
        approvals=Approvals(connection, clock, settings.two_persons_above_yuan * NANO_PER_UNIT),
    )  # fmt: skip


def _privacy_rules(settings: Settings) -> PrivacyRules:
    return PrivacyRules(
        settings.residency_region,
        settings.cross_border_consent,
        settings.terms_required,
        settings.real_name_required,
        settings.identity_hash_days,
    )


def _dunning_plan(settings: Settings) -> DunningPlan:
    """0 days of a step: never."""
    return DunningPlan(
        settings.dunning_remind_days or None,
        settings.dunning_restrict_days or None,
        settings.dunning_suspend_days or None,
        settings.dunning_close_days or None,
    )


def _following(settings: Settings, connection: Connection, clock: Clock, offerings: Offerings) -> Following:
    """With the lines of the request log, where there is one."""
    lines = (lambda id_: find_lines(settings.log, id_)) if settings.log_requests_bytes else None
    return Following(connection, clock, offerings.rate_cards, lines)
