"""What staff does: subscribers, deliveries, bill runs, charge files, the audit trail."""

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from tokenworks.billing import LAYOUT, discount_nano
from tokenworks.charging import JobName
from tokenworks.console.account import subscriber_resource, suspension_resource
from tokenworks.console.web import (
    ALL_STAFF,
    Asked,
    Body,
    Instant,
    Paged,
    Strict,
    Who,
    allow,
    answer,
    as_uuid,
    audit,
    decimal,
    only_filters,
    page_of,
    shown,
    two_persons,
    when,
)
from tokenworks.kernel import Invalid
from tokenworks.subscriptions import ContractPrice, parse_phone
from tokenworks.trust import Approval, Document

router = APIRouter(prefix="/api/operations", tags=["operations"])


class SubscriberCreate(Strict):
    phone: str = Field(max_length=32)
    name: str | None = Field(default=None, max_length=100)
    audiences: list[Annotated[str, Field(max_length=32)]] | None = Field(default=None, max_length=7)
    language: Literal["zh", "en"] = "zh"
    broadband: str | None = Field(default=None, max_length=32)
    bill_day: int = Field(default=1, ge=1, le=28)


@router.post("/subscribers", status_code=201, summary="Register a subscriber", **allow("operator"))
def register(body: SubscriberCreate, rooms: Asked, who: Who) -> Response:
    with rooms.connection.transaction():
        made = rooms.subscriptions.register(
            parse_phone(body.phone), body.name, audiences=body.audiences, language=body.language, broadband=body.broadband,
            bill_day=body.bill_day,
        )  # fmt: skip
        audit(rooms, who, "subscriber.register", made.subscriber_id, None, {"phone": made.phone_masked})
    return answer(subscriber_resource(rooms, made), 201)


class SubscriberAction(Strict):
    """`cause` goes with suspend and resume: each cause is lifted by itself. By `payment` dunning alone suspends."""

    action: Literal["suspend", "resume", "close", "change_phone", "change_owner"]
    cause: Literal["operator", "fraud", "lost_phone", "own_wish"] = "operator"
    phone: str | None = Field(default=None, max_length=32)
    # The new holder's, with `change_owner`.
    name: str | None = Field(default=None, max_length=100)
    reason: str = Field(min_length=1, max_length=200)


@router.post(
    "/subscribers/{id}/actions",
    summary="Suspend, resume, close, another number, another holder of it",
    **allow("operator"),
)
def act(body: SubscriberAction, rooms: Asked, who: Who, id: str) -> Response:
    found = rooms.subscriptions.find(str(as_uuid(id, "subscriber")))
    before = subscriber_resource(rooms, found)
    with rooms.connection.transaction():
        if body.action == "close":
            rooms.subscriptions.close(found)
            rooms.identity.end_sessions(found.subscriber_id)
        elif body.action == "change_owner":
            # What the number's old holder owes stays its own: the answer is about that one, which is closed.
            rooms.subscriptions.change_owner(found, body.name)
            rooms.identity.end_sessions(found.subscriber_id)
        elif body.action == "change_phone":
            if body.phone is None:
                raise Invalid("phone: say the new number")
            rooms.subscriptions.change_phone(found, body.phone)
            rooms.identity.end_sessions(found.subscriber_id)
        elif body.action == "suspend":
            rooms.subscriptions.suspend(found, body.cause, body.reason)
        else:
            rooms.subscriptions.lift(found, body.cause, body.reason)
        after = subscriber_resource(rooms, rooms.subscriptions.find(str(found.subscriber_id)))
        audit(
            rooms,
            who,
            f"subscriber.{body.action}",
            found.subscriber_id,
            before,
            {**after, "reason": body.reason},
        )
    return answer(after)


@router.get(
    "/subscribers/{id}/suspensions", summary="What suspended a subscriber, and when", **allow(*ALL_STAFF)
)
def suspensions(rooms: Asked, id: str) -> Response:
    found = rooms.subscriptions.find(str(as_uuid(id, "subscriber")))
    rows = [suspension_resource(one) for one in rooms.subscriptions.suspensions(found)]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class Identification(Strict):
    """Who a subscriber is. Kept of the number is a keyed hash, which tells one person from another and nothing else."""

    document: Document = "resident_id"
    number: str = Field(min_length=5, max_length=64)


@router.put(
    "/subscribers/{id}/identity",
    status_code=204,
    summary="Whom a subscriber is known to be",
    **allow("operator"),
)
def identify(body: Identification, rooms: Asked, who: Who, id: str) -> Response:
    found = rooms.subscriptions.find(str(as_uuid(id, "subscriber")))
    with rooms.connection.transaction():
        rooms.subscriptions.identify(found, body.document, body.number)
        audit(rooms, who, "subscriber.identify", found.subscriber_id, None, {"document": body.document})
    return Response(status_code=204)


class ContractPriceCreate(Strict):
    """A price of a subscriber's own, in yuan with VAT, as a decimal in quotes. Charges that are made stay."""

    offering: str = Field(min_length=1, max_length=64)
    price: str = Field(max_length=20)
    contract: str = Field(min_length=1, max_length=100)
    valid_from: Instant | None = None
    valid_until: Instant | None = None


def _contract_price(price: ContractPrice) -> dict[str, object]:
    return shown(
        {
            "offering": price.offering_id,
            "price": decimal(price.price_nano),
            "contract": price.contract,
            "valid_from": when(price.valid_from),
            "valid_until": when(price.valid_until),
        }
    )


@router.get("/subscribers/{id}/contract-prices", summary="Prices of a subscriber's own", **allow(*ALL_STAFF))
def contract_prices(rooms: Asked, id: str) -> Response:
    found = rooms.subscriptions.find(str(as_uuid(id, "subscriber")))
    rows = [_contract_price(price) for price in rooms.subscriptions.contract_prices(found)]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


@router.post(
    "/subscribers/{id}/contract-prices",
    status_code=201,
    summary="Agree a price with a subscriber",
    **allow("operator"),
)
def set_contract_price(body: ContractPriceCreate, rooms: Asked, who: Who, id: str) -> Response:
    found = rooms.subscriptions.find(str(as_uuid(id, "subscriber")))
    with rooms.connection.transaction():
        before = [_contract_price(price) for price in rooms.subscriptions.contract_prices(found)]
        rooms.subscriptions.set_contract_price(
            found, body.offering, body.price, body.contract, body.valid_from, body.valid_until
        )
        given = discount_nano(rooms.offerings, body.offering, body.price)
        two_persons(
            rooms, who, "subscriber.contract", f"{found.subscriber_id} {body.offering}", given, body.contract
        )
        after = [_contract_price(price) for price in rooms.subscriptions.contract_prices(found)]
        audit(rooms, who, "subscriber.contract", found.subscriber_id, before, after)
    return answer(after, 201)


@router.get("/work-orders", summary="What other systems deliver", **allow("operator", "auditor"))
def work_orders(rooms: Asked) -> Response:
    found = [
        shown(
            {
                "id": str(work.work_order_id),
                "port": work.port,
                "action": work.action,
                "offering": work.offering_id,
                "delivery": work.delivery,
                "order": str(work.order_id),
                "subscriber": str(work.subscriber_id),
                "attempts": work.attempts,
                "reason": work.reason,
                "created_at": when(work.created_at),
            }
        )
        for work in rooms.orders.work_orders()
    ]
    return answer(found, headers={"X-Total-Count": str(len(found))})


class WorkAnswer(Strict):
    state: Literal["done", "refused"]
    reason: str | None = Field(default=None, max_length=200)
    again: bool = False
    # Which asking is answered; left out, the last one.
    attempt: int | None = Field(default=None, ge=1, le=1000)


@router.patch("/work-orders/{id}", summary="A delivery is done, or refused", **allow("operator"))
def answer_work(body: WorkAnswer, rooms: Asked, who: Who, id: str) -> Response:
    work_order_id = as_uuid(id, "work order")
    with rooms.connection.transaction():
        state = rooms.orders.answer(
            work_order_id,
            done=body.state == "done",
            reason=body.reason,
            again=body.again,
            attempt=body.attempt,
        )
        audit(
            rooms,
            who,
            "work_order.answer",
            work_order_id,
            {"state": "open"},
            {"state": state, "reason": body.reason},
        )
    return answer({"id": id, "state": state})


@router.post("/bill-runs", summary="Bill everybody whose period has ended", **allow("finance"))
def bill_run(rooms: Asked, who: Who, dry_run: bool = False) -> Response:
    if dry_run:
        count, amount = rooms.bills.due()
        return answer({"bills": count, "amount_nano": amount, "dry_run": True})
    rooms.charges.recognise()
    made = rooms.bills.run()
    audit(rooms, who, "bill.run", "bills", None, {"bills": made.bills, "amount_nano": made.amount_nano})
    return answer(
        {"bills": made.bills, "lines": made.lines, "amount_nano": made.amount_nano, "dry_run": False}
    )


@router.get("/failed-jobs", summary="Cycles, credits, refunds and bills that failed", **allow(*ALL_STAFF))
def failed_jobs(rooms: Asked) -> Response:
    rows = [
        {
            "job": failed.job,
            "ref": str(failed.ref),
            "state": failed.state,
            "attempts": failed.attempts,
            "reason": failed.reason,
            "first_failed_at": when(failed.first_failed_at),
            "failed_at": when(failed.failed_at),
            "next_at": when(failed.next_at) if failed.state == "retrying" else None,
        }
        for failed in rooms.failed_jobs.all()
    ]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class JobRelease(Strict):
    """Which job, of the product, order, refund or subscriber that the path names."""

    job: JobName


@router.post("/failed-jobs/{id}/release", summary="Try a failed job again", **allow("operator", "finance"))
def release_job(body: JobRelease, rooms: Asked, who: Who, id: str) -> Response:
    about = as_uuid(id, "job")
    with rooms.connection.transaction():
        rooms.failed_jobs.release(body.job, about)
        audit(rooms, who, "job.release", about, {"job": body.job}, {"state": "released"})
    return answer({"job": body.job, "ref": str(about), "state": "released"})


@router.get("/charge-files", summary="Phone-bill charge files, newest first", **allow("finance", "auditor"))
def charge_files(rooms: Asked) -> Response:
    found = [
        {name: when(value) if name.endswith("_at") else value for name, value in file.items()}  # type: ignore[arg-type]
        for file in rooms.charge_files.files()
    ]
    return answer(found, headers={"X-Total-Count": str(len(found))})


@router.post("/charge-files", status_code=201, summary="Make the next charge file", **allow("finance"))
def make_charge_file(rooms: Asked, who: Who) -> Response:
    with rooms.connection.transaction():
        made = rooms.charge_files.make_file()
        if made is None:
            return Response(status_code=204)
        audit(rooms, who, "charge_file.make", made[0])
    return Response(
        made[1], 201, {"X-Sequence": str(made[0]), "Location": f"/api/operations/charge-files/{made[0]}"}, "text/plain"
    )  # fmt: skip


@router.get("/charge-files/{sequence}", summary="A charge file again, byte for byte", **allow("finance"))
def charge_file(rooms: Asked, sequence: int) -> Response:
    return Response(rooms.charge_files.file(sequence), media_type="text/plain")


@router.post("/charge-files/acknowledgements", summary=f"Take an answer ({LAYOUT})", **allow("finance"))
def acknowledge(body: Body, rooms: Asked, who: Who, dry_run: bool = False) -> Response:
    with rooms.connection.transaction():
        accepted, rejected = rooms.charge_files.acknowledge(body, dry_run=dry_run)
        if not dry_run:
            audit(
                rooms,
                who,
                "charge_file.acknowledge",
                "file",
                None,
                {"accepted": accepted, "rejected": rejected},
            )
    return answer({"accepted": accepted, "rejected": rejected, "dry_run": dry_run})


@router.get("/audit", summary="Who did what to what, newest first", **allow("auditor"))
def audit_trail(
    request: Request, rooms: Asked, page: Paged, ref: Annotated[str | None, Query(max_length=100)] = None
) -> Response:
    only_filters(request, "ref")
    found, total = rooms.identity.audited(ref, page.offset, page.limit)
    rows = [
        {**row, "audit_id": str(row["audit_id"]), "at": when(row["at"])}  # type: ignore[arg-type]
        for row in found
    ]
    return page_of(page, rows, total)


@router.get("/staff", summary="Staff and their roles", **allow(*ALL_STAFF))
def staff(rooms: Asked) -> Response:
    rows = [
        {name: when(value) if name.endswith("_at") else value for name, value in row.items()}  # type: ignore[arg-type]
        for row in rooms.identity.staff()
    ]
    return answer(rows, headers={"X-Total-Count": str(len(rows))})


class TokenRotation(Strict):
    """For so many hours the token that is asked with stays good."""

    overlap_h: int = Field(default=24, ge=0, le=720)


@router.post(
    "/staff/token",
    status_code=201,
    summary="A new token of one's own, shown this once",
    **allow(*ALL_STAFF),
)
def rotate_token(body: TokenRotation, rooms: Asked, who: Who) -> Response:
    with rooms.connection.transaction():
        token = rooms.identity.rotate_staff(who.name, timedelta(hours=body.overlap_h))
        audit(rooms, who, "staff.rotate", who.name, None, {"overlap_h": body.overlap_h})
    return answer({"name": who.name, "token": token}, 201)


# Two persons.


def _approval(approval: Approval) -> dict[str, object]:
    return shown(
        {
            "id": str(approval.approval_id),
            "action": approval.action,
            "ref": approval.ref,
            "amount": decimal(approval.amount_nano),
            "state": approval.state,
            "asked_by": approval.asked_by,
            "asked_at": when(approval.asked_at),
            "decided_by": approval.decided_by,
            "decided_at": when(approval.decided_at),
        }
    )


@router.get("/approvals", summary="What needs a second person, newest first", **allow(*ALL_STAFF))
def approvals(
    request: Request,
    rooms: Asked,
    page: Paged,
    state: Literal["open", "approved", "refused", "used"] | None = None,
) -> Response:
    only_filters(request, "state")
    found, total = rooms.approvals.all(state, page.offset, page.limit)
    return page_of(page, [_approval(approval) for approval in found], total)


class ApprovalDecision(Strict):
    state: Literal["approved", "refused"]


@router.patch(
    "/approvals/{id}", summary="Approve what another person asks for, or refuse it", **allow("finance")
)
def decide(body: ApprovalDecision, rooms: Asked, who: Who, id: str) -> Response:
    with rooms.connection.transaction():
        made = rooms.approvals.decide(as_uuid(id, "approval"), who.name, approve=body.state == "approved")
        audit(rooms, who, f"approval.{body.state}", id, {"state": "open"}, _approval(made))
    return answer(_approval(made))
