"""The usage page: balances, usage by day, the requests. A member sees the account's balances and its own requests."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response

from tokenworks.catalog import TOKEN_CLASSES
from tokenworks.kernel import format_tokens
from tokenworks.pages.balances import DAYS_SHOWN, balances, days_chart
from tokenworks.pages.family import cap_line
from tokenworks.pages.page import Visitor, is_partial, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.tables import Asked, Cell, Column, TableSpec, asked, csv_of, page_of, wants_csv
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import BILLING_ZONE
from tokenworks.texts import Language
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)
Record = Mapping[str, Any]


def _requests(language: Language) -> TableSpec[Record]:
    """The table of requests, newest first as the ledger has them. Texts of a row depend on the language."""
    words = WORDS[language]

    def model(record: Record) -> Cell:
        note = words["interrupted"] if record["state"] != "complete" else ""
        return Cell(record["model"], note)

    def charged(record: Record) -> Cell:
        parts = [
            format_tokens(part[5], part[3], language) for part in record["parts"] if part[4] == "balance"
        ]
        return Cell(" + ".join(parts) or "0")

    return TableSpec(
        "requests",
        "last_requests",
        (
            Column("at", "when", _at, _ended),
            Column("model", "model", model, lambda record: record["model"]),
            Column("tokens", "tokens", lambda record: Cell(f"{_tokens(record):,}"), _tokens, is_number=True),
            Column("charged", "charged", charged, is_number=True),
        ),
        "no_requests",
    )


def _at(record: Record) -> Cell:
    return Cell(f"{record['ended_at'].astimezone(BILLING_ZONE):%m-%d %H:%M}")


def _ended(record: Record) -> str:
    return f"{record['ended_at'].astimezone(BILLING_ZONE):%Y-%m-%d %H:%M:%S}"


def _tokens(record: Record) -> int:
    return sum(record[name] for name in TOKEN_CLASSES)


@router.get("/usage")
def usage(request: Request, services: RequestServices) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/usage")
    language = language_of(request, visitor)
    spec = _requests(language)
    wanted = asked(spec, request)
    records, total = _records(services, visitor, wanted)
    if wants_csv(request):
        return csv_of(spec, records, WORDS[language], "requests")
    table = page_of(spec, wanted, records, total, WORDS[language], "/usage")
    if is_partial(request):
        return render(request, services, "table_part.html", "usage", "usage", visitor=visitor, table=table)
    now = services.clock.now()
    days = services.ledger.usage_by_day(visitor.subscriber.account_id, now - timedelta(days=DAYS_SHOWN))
    return render(
        request, services, "usage.html", "usage", "usage", visitor=visitor, table=table,
        rings=balances(services, visitor, days, now, language),
        # Usage of other members by day is shown to owner and admins only.
        chart=None if visitor.is_member or not any(days.values()) else days_chart(days, now, language),
        is_member=visitor.is_member, cap=own_cap(services, visitor, language) if visitor.is_member else None,
    )  # fmt: skip


def _records(services: Services, visitor: Visitor, wanted: Asked) -> tuple[list[Record], int | None]:
    own_id = visitor.principal.member_id if visitor.is_member else None
    found, total = services.ledger.usage_page(
        visitor.subscriber.account_id, None, own_id, wanted.offset, wanted.size
    )
    return list(found), total


def own_cap(services: Services, visitor: Visitor, language: Language) -> str:
    assert visitor.principal.member_id is not None
    member = services.members.by_id(visitor.principal.member_id)
    assert member is not None
    used = services.ledger.used_of_caps(visitor.subscriber.account_id, services.clock.now())
    return cap_line(member, used, language)
