"""The wiring of the rooms' services on one database connection. Each module of `app/process` wires its own process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, cast, get_type_hints
from uuid import UUID

from psycopg import Connection

from tokenworks import billing, catalog, charging, factory, gateway, trust
from tokenworks import subscriptions as shop
from tokenworks.app.database.connections import second_connection
from tokenworks.kernel import NANO_PER_UNIT, Clock, SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from tokenworks.app.settings import Settings
    from tokenworks.app.verifier import Verified


class AppServices:
    """Every room's services, on one database connection. A service is made, and its room imported, at its first use."""

    def __init__(
        self,
        settings: Settings,
        connection: Connection,
        clock: Clock,
        peppers: dict[int, bytes],
        vault_secrets: trust.VaultSecrets,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.vault = trust.PersonVault(connection, vault_secrets)
        self.operator: str = settings.operator_name
        self.is_dev: bool = settings.environment == "dev"
        self.fonts_dir: Path | None = settings.fonts_dir
        self._settings = settings
        self._peppers = peppers

    @contextlib.contextmanager
    def transaction(self, *, dry_run: bool = False) -> Iterator[None]:
        """A transaction of the connection; a dry run is rolled back at its end."""
        with self.connection.transaction(force_rollback=dry_run):
            yield

    def verify_books(
        self, progress: Callable[[str, int, int], None], *, full: bool, processes: int | None = None
    ) -> Verified:
        """The findings of `tokenworks ledger verify`."""
        from tokenworks.app.verifier import verify_books  # noqa: PLC0415 - it has the checks of every room

        return verify_books(
            self.connection, self.offerings.rate_cards(), progress, full=full, processes=processes
        )

    @cached_property
    def _rules(self) -> shop.PrivacyRules:
        return shop.PrivacyRules(
            self._settings.residency_region,
            self._settings.cross_border_consent,
            self._settings.terms_required,
            self._settings.real_name_required,
            self._settings.identity_hash_days,
        )

    # The catalogue, and the deployments that serve it.

    @cached_property
    def offerings(self) -> catalog.Offerings:
        return catalog.Offerings(self.connection, self.clock, is_dev=self.is_dev)

    @cached_property
    def drafts(self) -> catalog.Drafts:
        return catalog.Drafts(self.connection, self.offerings, self.clock)

    @cached_property
    def deployments(self) -> factory.Deployments:
        return factory.Deployments(self.connection)

    @cached_property
    def known_models(self) -> factory.KnownModels:
        return factory.KnownModels(self.connection)

    # The books.

    @cached_property
    def ledger(self) -> charging.Ledger:
        return charging.Ledger(self.connection, self.clock)

    @cached_property
    def following(self) -> charging.RequestLookup:
        log = self._settings.log
        return charging.RequestLookup(
            self.connection,
            self.clock,
            self.offerings.rate_cards,
            (lambda id_: gateway.find_lines(log, id_)) if self._settings.log_requests_bytes else None,
        )

    @cached_property
    def charges(self) -> charging.Charges:
        charges = charging.Charges(self.connection, self.clock)
        charges.when_settled(self._settle_open_items)
        return charges

    def _settle_open_items(self, subscriber_ids: Sequence[UUID]) -> object:
        return billing.OpenItems(self.connection, self.subscriptions, self.clock).settle(subscriber_ids)

    @cached_property
    def adjustments(self) -> charging.Adjustments:
        return charging.Adjustments(self.connection, self.clock)

    @cached_property
    def transfers(self) -> charging.Transfers:
        return charging.Transfers(self.connection, self.clock)

    @cached_property
    def replays(self) -> charging.Replays:
        settings = self._settings
        return charging.Replays(
            self.connection,
            self.clock,
            self.vault,
            charging.ReplayLimits(
                settings.replay_answer_bytes_max,
                settings.replay_account_bytes_max,
                settings.replay_account_answers_max,
                settings.request_timeout_s + settings.drain_s,
            ),
        )

    @cached_property
    def content_log(self) -> charging.ContentLog:
        settings = self._settings
        return charging.ContentLog(
            self.connection,
            self.clock,
            self.vault,
            charging.ContentLogLimits(
                settings.content_log_days,
                settings.content_log_entry_bytes_max,
                settings.content_log_account_bytes_max,
                settings.content_log_account_entries_max,
            ),
        )

    def _forget_member_content(self, account_id: UUID, member_id: UUID) -> None:
        self.replays.forget_member(account_id, member_id)
        self.content_log.forget_member(account_id, member_id)
        self.notices.forget_member(member_id)

    @cached_property
    def failed_jobs(self) -> charging.FailedJobs:
        return charging.FailedJobs(self.connection, self.clock)

    # Subscribers, and their products.

    @cached_property
    def subscriptions(self) -> shop.Subscriptions:
        return shop.Subscriptions(
            self.connection,
            self.offerings,
            self.ledger,
            self.clock,
            self.orders,
            self.members,
            self.consents,
            self.vault,
            self.identity,
        )

    @cached_property
    def members(self) -> shop.Members:
        return shop.Members(self.connection, self.ledger, self.clock, self.transfers, self.vault, self.keys)

    @cached_property
    def consents(self) -> shop.Consents:
        texts = shop.ConsentTexts(self._settings.consent_texts_dir)
        return shop.Consents(self.connection, self.ledger, self.clock, self._rules, texts)

    @cached_property
    def orders(self) -> shop.Orders:
        return shop.Orders(
            self.connection, self.offerings, self.ledger, self.charges, self.clock, self.vault, self._rules
        )

    @cached_property
    def quotes(self) -> shop.Quotes:
        sales = shop.Sales(self.connection, self.offerings, self.ledger, self.charges, self.clock)
        return shop.Quotes(
            self.connection, self.offerings, self.charges, self.orders, sales, self.clock, self.vault
        )

    @cached_property
    def eligibility(self) -> shop.Eligibility:
        return shop.Eligibility(self.connection, self.offerings, self._rules)

    @cached_property
    def access(self) -> shop.Access:
        return shop.Access(self.connection, self.vault, self.keys, self.ledger, self.clock)

    @cached_property
    def sign_ins(self) -> shop.SignIns:
        return shop.SignIns(
            self.connection, self.subscriptions, self.members, self.consents, self.identity, self.passkeys
        )

    @cached_property
    def moves(self) -> shop.Moves:
        return shop.Moves(self.connection, self.offerings, self.clock, self.vault)

    @cached_property
    def deliveries(self) -> shop.Deliveries:
        return shop.Deliveries(self.connection, self.orders, self.clock, self.vault)

    @cached_property
    def hub(self) -> shop.Hub:
        return shop.Hub(
            self.connection,
            self._peppers,
            self.clock,
            self.vault,
            allow_private=self._settings.webhook_allow_private,
            need_tls=self._settings.environment != "dev",
        )

    @cached_property
    def payg(self) -> shop.PayAsYouGo:
        return shop.PayAsYouGo(
            self.connection, self.offerings, self.ledger, self.charges, self.clock, self.vault
        )

    @cached_property
    def served(self) -> shop.ServedKeys:
        return shop.ServedKeys(
            self.connection, self.offerings, self.ledger, self.clock, self._rules, self.keys
        )

    @cached_property
    def key_standings(self) -> shop.KeyStandings:
        return shop.KeyStandings(self.keys, self.served, self.ledger, self.clock)

    @cached_property
    def notices(self) -> shop.Notices:
        return shop.Notices(
            self.connection,
            self.clock,
            self.subscriptions,
            self.members,
            self.consents,
            self.notice_choices,
            self._settings.notice_days,
        )

    @cached_property
    def notice_choices(self) -> shop.NoticeChoices:
        settings = self._settings
        return shop.NoticeChoices(
            self.connection,
            self._peppers,
            self.clock,
            self.vault,
            has_mail=settings.sends_mail,
            allow_private=settings.notice_webhook_allow_private,
            need_tls=settings.environment != "dev",
        )

    @cached_property
    def privacy(self) -> shop.Privacy:
        from tokenworks.app.ports.real_name import real_name_check  # noqa: PLC0415 - few ask for it, over HTTP

        settings, adjustments, transfers = self._settings, self.adjustments, self.transfers
        return shop.Privacy(
            self.connection, self.vault, self.subscriptions, self.charges, self.keys, self.identity, self.clock, self._rules,
            settings.backup_days, lambda: real_name_check(settings),
            shop.MemberRights(
                self.vault, self.ledger, transfers, self.keys, self.identity, self.clock, self._forget_member_content,
                self.content_log.of_member,
                self.notices.export_of_member,
            ),
            [self.charge_files.forget, self.bills.forget, self.payments.forget, self.refunds.forget, self.disputes.forget, self.hub.forget,
             self.notices.forget,
             lambda erased: adjustments.forget(erased.account_id), lambda erased: transfers.forget(erased.account_id),
             lambda erased: self.replays.forget_account(erased.account_id),
             lambda erased: self.content_log.forget_account(erased.account_id)],
        )  # fmt: skip

    # Bills and payments.

    @cached_property
    def bills(self) -> billing.Bills:
        return billing.Bills(
            self.connection,
            self.charges,
            self.subscriptions,
            self.clock,
            due_days=self._settings.bill_due_days,
            batch=self._settings.bill_run_batch,
        )

    @cached_property
    def disputes(self) -> billing.Disputes:
        return billing.Disputes(self.connection, self.bills, self.subscriptions, self.clock)

    @cached_property
    def payments(self) -> billing.Payments:
        from tokenworks.app.outside import OutsidePayments  # noqa: PLC0415 - it imports its room

        connection = self.connection
        return OutsidePayments(
            self,
            connection,
            self.bills,
            self.charges,
            self.subscriptions,
            self.clock,
            lambda: second_connection(connection),
        )

    @cached_property
    def charge_files(self) -> billing.ChargeFiles:
        return billing.ChargeFiles(
            self.connection,
            self.bills,
            self.payments,
            self.charges,
            self.subscriptions,
            self.clock,
            self.vault,
        )

    @cached_property
    def dunning(self) -> billing.Dunning:
        settings = self._settings
        plan = billing.DunningPlan(
            settings.dunning_remind_days or None,
            settings.dunning_restrict_days or None,
            settings.dunning_suspend_days or None,
            settings.dunning_close_days or None,
        )
        return billing.Dunning(self.connection, self.charges, self.subscriptions, self.clock, plan)

    @cached_property
    def desk(self) -> billing.PaymentDesk:
        return billing.PaymentDesk(self.payments, is_dev=self.is_dev)

    @cached_property
    def documents(self) -> billing.Documents:
        return billing.Documents(self.bills, self.charges, self.subscriptions, self.operator, self.fonts_dir)

    @cached_property
    def focus(self) -> billing.Focus:
        return billing.Focus(
            self.bills, self.charges, self.ledger, self.offerings, self.orders, self.subscriptions, self.members, self.operator, self.clock
        )  # fmt: skip

    @cached_property
    def refunds(self) -> billing.Refunds:
        return billing.Refunds(self.connection, self.charges, self.orders, self.subscriptions, self.clock)

    # Keys, identities and approvals.

    @cached_property
    def keys(self) -> trust.Keys:
        return trust.Keys(self.connection, self._peppers, self.clock, self._settings.environment)

    @cached_property
    def identity(self) -> trust.Identity:
        days = timedelta(days=self._settings.staff_token_days)
        return trust.Identity(self.connection, self._peppers, self.clock, self.vault, days)

    @cached_property
    def staff_sessions(self) -> trust.StaffSessions:
        limits = trust.StaffSessionLimits(
            timedelta(minutes=self._settings.staff_session_idle_min),
            timedelta(hours=self._settings.staff_session_hours),
        )
        return trust.StaffSessions(self.connection, self._peppers, self.clock, limits)

    @cached_property
    def staff_sign_in(self) -> trust.StaffSignIn:
        roles = cast("dict[str, trust.StaffRole]", self._settings.staff_roles_of_groups)
        return trust.StaffSignIn(
            self.connection,
            self._peppers,
            self.clock,
            self.identity,
            self.staff_sessions,
            trust.SecondFactor(self.connection, self._peppers, self.clock, self.vault, self.operator),
            trust.OidcRules(roles, self._settings.staff_oidc_creates),
        )

    @cached_property
    def passkeys(self) -> trust.Passkeys:
        chosen = self._settings
        sites = trust.PasskeySites(chosen.passkey_rp_id, chosen.passkey_origins, chosen.public_url)
        return trust.Passkeys(self.connection, self._peppers, self.clock, self.vault, sites)

    @cached_property
    def peppers(self) -> trust.PepperVersions:
        return trust.PepperVersions(self.connection, self.clock)

    @cached_property
    def answers(self) -> trust.Answers:
        return trust.Answers(self.connection, self.clock, self.vault)

    @cached_property
    def approvals(self) -> trust.Approvals:
        return trust.Approvals(
            self.connection, self.clock, self._settings.two_persons_above_yuan * NANO_PER_UNIT
        )


def make_works(
    settings: Settings,
    connection: Connection,
    clock: Clock | None = None,
    peppers: dict[int, bytes] | None = None,
    vault_secrets: trust.VaultSecrets | None = None,
) -> AppServices:
    """The services on a connection. Peppers and vault secrets are read from `secrets_dir` where they are not given."""
    return AppServices(
        settings,
        connection,
        clock or SystemClock(),
        peppers or trust.load_peppers(settings.secrets),
        vault_secrets or trust.load_vault_secrets(settings.secrets),
    )


def load_services() -> None:
    """Import every service now: forked children then share the imported modules, and their first request does not wait for imports."""
    for service in vars(AppServices).values():
        if isinstance(service, cached_property):
            get_type_hints(service.func)
