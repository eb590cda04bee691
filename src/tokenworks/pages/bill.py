"""The bill page: spending and its limits, charges that are not billed yet, bills with their lines, and questions about them."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal, NamedTuple, TypedDict
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.billing import QUESTION_CHARS_MAX, Bill, BillNotFound, Dispute
from tokenworks.charging import BillLine, Charge
from tokenworks.kernel import TokenworksError, format_money, parse_money
from tokenworks.pages.page import FormText, Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.phrases import fen, yuan
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import Subscriber, check_control, day_of, last_day
from tokenworks.texts import Language
from tokenworks.trust import NotAllowed
from tokenworks.web.principals import audit, own_bill
from tokenworks.web.services import RequestServices, Services
from tokenworks.web.urls import BILL_API

router = APIRouter(include_in_schema=False)
BILLS_SHOWN: Final = 12
DoneParameter = Annotated[Literal["asked", "spending"] | None, Query()]
BillNo = Annotated[str, Query(max_length=64)]
LineNo = Annotated[int, Query(ge=1, le=1_000_000)]


@router.get("/bills")
@router.get("/bill")
def bill(request: Request, services: RequestServices, done: DoneParameter = None) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/bill")
    return _show(request, services, visitor, done)


def _show(
    request: Request,
    services: Services,
    visitor: Visitor,
    done: str | None = None,
    error: TokenworksError | None = None,
    cap: str | None = None,
) -> Response:
    """`cap`: the one that was entered and refused."""
    language, subscriber = language_of(request, visitor), visitor.subscriber
    words = WORDS[language]
    unbilled = so_far(services, subscriber, language)
    bills, _ = services.bills.all(subscriber, 0, BILLS_SHOWN)
    disputes: dict[tuple[UUID, int], list[Dispute]] = {}
    for dispute in services.disputes.of_bills(bills):
        disputes.setdefault((dispute.bill_id, dispute.line_no), []).append(dispute)
    return render(
        request, services, "bill.html", "bill", "bill", visitor=visitor, error=error,
        error_at=None if cap is None else "cap", done=words[f"done_{done}"] if done else None,
        spent_of=words["spent_of"].format(spent=yuan(services.payg.spent(subscriber)), cap=yuan(subscriber.cap_nano)),
        cap=format_money(fen(subscriber.cap_nano)).replace(",", "") if cap is None else cap, locked=subscriber.spend_locked, spill_over=subscriber.spill_over, is_owner=visitor.principal.role == "owner",
        so_far=[{"what": row.what, "at": row.day, "amount": yuan(row.amount_nano)} for row in unbilled], so_far_total=yuan(sum(row.amount_nano for row in unbilled)),
        bills=[_bill(services, b, disputes, language) for b in bills],
    )  # fmt: skip


def _bill(
    services: Services, b: Bill, disputes: dict[tuple[UUID, int], list[Dispute]], language: Language
) -> dict[str, object]:
    words = WORDS[language]
    return {
        "number": b.bill_no, "period": words["period"].format(begin=day_of(b.period_start), end=last_day(b.period_end)),
        "amount": yuan(b.amount_nano), "left": words["to_pay"].format(amount=yuan(b.remaining_nano)) if b.remaining_nano else "",
        "due": words["due"].format(day=day_of(b.due_at)),
        "pdf": f"{BILL_API}/customerBill/{quote(str(b.bill_id))}/document?language={language}",
        "lines": [
            {
                "what": _description(line, language), "amount": yuan(line.amount_nano),
                "ask": f"/bill/dispute?bill={quote(b.bill_no)}&line={line.line_no}",
                "can_ask": all(dispute.state == "answered" for dispute in disputes.get((b.bill_id, line.line_no), [])),
                "disputes": [_dispute(dispute, words) for dispute in disputes.get((b.bill_id, line.line_no), [])],
            }
            for line in services.bills.lines(b)
        ],
    }  # fmt: skip


def _description(line: Charge | BillLine, language: Language) -> str:
    return line.description_zh if language == "zh" else line.description


def _dispute(dispute: Dispute, words: Mapping[str, str]) -> dict[str, str]:
    answered = words["waiting"]
    if dispute.answered_at is not None:
        answered = words["answered"].format(day=day_of(dispute.answered_at))
    return {
        "asked": words["asked"].format(day=day_of(dispute.asked_at)),
        "question": dispute.question,
        "answered": answered,
        "answer": dispute.answer or "",
    }


class UnbilledRow(NamedTuple):
    what: str
    day: str
    # In whole fen, as a line of the bill.
    amount_nano: int


def so_far(services: Services, subscriber: Subscriber, language: Language) -> list[UnbilledRow]:
    """The charges that are on no bill yet."""
    return _grouped(services.charges.of_subscriber(subscriber.subscriber_id, unbilled=True), language)


def _grouped(charges: list[Charge], language: Language) -> list[UnbilledRow]:
    """Rows of charges that are not billed yet. The steps of a product are one row, as they will be one line of the bill."""
    rows: dict[tuple[object, ...], list[Charge]] = {}
    for charge in charges:
        key = (charge.product_id, "step") if charge.kind == "step" else (charge.charge_id,)
        rows.setdefault(key, []).append(charge)
    return [
        UnbilledRow(
            _description(group[0], language) + (f" × {len(group)}" if len(group) > 1 else ""),
            day_of(group[0].charged_at),
            fen(sum(charge.amount_nano for charge in group)),
        )
        for group in rows.values()
    ]


class _SpendingControl(TypedDict, total=False):
    """What one of the forms changes."""

    cap_nano: int
    locked: bool
    spill_over: bool


@router.post("/bill/spending")
def spending(
    request: Request,
    services: RequestServices,
    what: Annotated[Literal["lock", "unlock", "cap", "spill_on", "spill_off"], Form()],
    cap: FormText = "",
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/bill")
    principal, subscriber = visitor.principal, visitor.subscriber
    try:
        wanted: _SpendingControl
        if what == "cap":
            wanted = {"cap_nano": parse_money(cap).amount_nano}
        elif what in {"lock", "unlock"}:
            wanted = {"locked": what == "lock"}
        else:
            wanted = {"spill_over": what == "spill_on"}
        check_control(principal.role, subscriber, **wanted)
        with services.transaction():
            services.subscriptions.lock([subscriber.subscriber_id])
            known = services.subscriptions.find(str(subscriber.subscriber_id))
            is_so = {"cap_nano": known.cap_nano, "locked": known.spend_locked, "spill_over": known.spill_over}
            # A form that is sent twice changes nothing the second time.
            if any(is_so[name] != value for name, value in wanted.items()):
                services.payg.control(subscriber, **wanted, said_by=principal.actor)
                audit(services, principal, "subscriber.set", subscriber.subscriber_id, None, wanted)
    except NotAllowed:
        raise
    except TokenworksError as error:
        return _show(request, services, visitor, error=error, cap=cap if what == "cap" else None)
    return RedirectResponse("/bill?done=spending", 303)


# Questions.


@router.get("/bill/dispute")
def question(request: Request, services: RequestServices, bill: BillNo, line: LineNo) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, f"/bill/dispute?bill={bill}&line={line}")
    return _question(request, services, visitor, bill, line)


def _question(
    request: Request,
    services: Services,
    visitor: Visitor,
    bill_no: str,
    line_no: int,
    text: str = "",
    error: TokenworksError | None = None,
) -> Response:
    found = own_bill(services, visitor.principal, bill_no)
    line = services.bills.line(found, line_no)
    language = language_of(request, visitor)
    words = WORDS[language]
    return render(
        request, services, "dispute.html", "bill", "dispute_title", visitor=visitor, error=error, error_at=None if error is None else "text",
        number=found.bill_no, line=line_no, what=_description(line, language), amount=yuan(line.amount_nano), text=text,
        period=words["period"].format(begin=day_of(found.period_start), end=last_day(found.period_end)), chars_max=QUESTION_CHARS_MAX,
    )  # fmt: skip


# Not `FormText`, since a question may have several lines; the service checks it.
Question = Annotated[str, Form(max_length=4 * QUESTION_CHARS_MAX)]


@router.post("/bill/dispute")
def send_question(
    request: Request,
    services: RequestServices,
    bill: FormText,
    line: Annotated[int, Form(ge=1, le=1_000_000)],
    text: Question = "",
) -> Response:
    visitor = visitor_of(request, services)
    if visitor is None:
        return sign_in_page(request, services, "/bill")
    found = own_bill(services, visitor.principal, bill)
    try:
        with services.transaction():
            made = services.disputes.ask(found, line, text)
            if made.new:
                after = {"bill": found.bill_no, "line": line}
                audit(services, visitor.principal, "dispute.ask", made.dispute_id, None, after)
    except BillNotFound:
        raise
    except TokenworksError as error:
        return _question(request, services, visitor, bill, line, text, error)
    return RedirectResponse("/bill?done=asked", 303)
