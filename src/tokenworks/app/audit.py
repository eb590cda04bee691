"""What an operator's command changes, as it is before and after: read from what its parameters name."""

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import UUID

from tokenworks.app.bootstrap import Works
from tokenworks.app.output import plain
from tokenworks.kernel import TokenworksError
from tokenworks.trust import all_peppers

Look = Callable[[Works, Mapping[str, Any]], object]
_PHONE = re.compile(r"\+\d{7,15}")


def mask_phone(text: str) -> str:
    """Full phone numbers are not kept where they are not needed."""
    return _PHONE.sub(lambda match: f"{match[0][:3]}{'*' * (len(match[0]) - 7)}{match[0][-4:]}", text)


def _subscriber(works: Works, params: Mapping[str, Any]) -> object:
    found = works.subscriptions.find(params.get("subscriber") or params["phone"])
    return {
        **plain(found),
        "phone": found.phone_masked,
        "products": {str(p.product_id): [p.offering_id, p.state] for p in works.orders.products(found)},
        "owes_nano": works.charges.receivable(found.account_id),
    }


def _member(works: Works, params: Mapping[str, Any]) -> object:
    found = works.subscriptions.find(params["subscriber"])
    names = [params[name] for name in ("reference", "giver", "taker", "name") if params.get(name)]
    members = [member for name in names for member in [works.members.find(found, name)]]
    caps = {
        b.cap_of: b.left for b in works.ledger.buckets(found.account_id) if b.cap_of and b.closing is None
    }
    return {
        m.name: {"role": m.role, "cap_tokens": m.cap_tokens, "cap_period": m.cap_period, "left": caps.get(m.member_id)}
        for m in members
    }  # fmt: skip


def _product(works: Works, params: Mapping[str, Any]) -> object:
    return works.orders.product(params["product"])[0]


def _order(works: Works, params: Mapping[str, Any]) -> object:
    order, _ = works.orders.find(params["order_id"])
    return {"order": plain(order), "refunds": plain(works.refunds.of_order(order.order_id))}


def _bill(works: Works, params: Mapping[str, Any]) -> object:
    bill = works.bills.find(params["bill_no"])
    return {**plain(bill), "credit_notes": plain(works.bills.credit_notes(bill))}


def _dispute(works: Works, params: Mapping[str, Any]) -> object:
    if "dispute_id" in params:
        return works.disputes.find(params["dispute_id"])
    return works.disputes.of_bills([works.bills.find(params["bill_no"])])


def _payment(works: Works, params: Mapping[str, Any]) -> object:
    return works.payments.find(params["payment_id"])


def _case(works: Works, params: Mapping[str, Any]) -> object:
    cases, _ = works.payments.cases(still_open=False)
    return next(case for case in cases if case.case_id == params["case_id"])


def _files(works: Works, _params: Mapping[str, Any]) -> object:
    return works.charge_files.files(1)


def _work(works: Works, params: Mapping[str, Any]) -> object:
    return next(w for w in works.orders.work_orders(None) if w.work_order_id == params["work_order_id"])


def _grant(works: Works, params: Mapping[str, Any]) -> object:
    return works.ledger.find_grant(params["grant_id"])


def _journal(works: Works, params: Mapping[str, Any]) -> object:
    """The grants that go are found in the books by their journal."""
    return {"reserved": [row._asdict() for row in works.ledger.reserved(params["journal_id"])]}


def _quarantine(works: Works, params: Mapping[str, Any]) -> object:
    """Not the record itself: it has its own place."""
    found = next(q for q in works.ledger.quarantined() if q["quarantine_id"] == params["quarantine_id"])
    return {name: value for name, value in found.items() if name != "record"}


def _limits(works: Works, params: Mapping[str, Any]) -> object:
    """The one that is named, or what the subscriber, the member, the key or the deployment has."""
    found = works.ledger.limits()
    if "limit_id" in params:
        return next(limit for limit in found if limit["limit_id"] == params["limit_id"])
    if params.get("deployment") is not None:
        return [limit for limit in found if limit["ref"] == params["deployment"]]
    account_id = works.subscriptions.find(params["subscriber"]).account_id
    return [limit for limit in found if limit["account_id"] == account_id]


def _failed_job(works: Works, params: Mapping[str, Any]) -> object:
    found = works.failed_jobs.all()
    return next(f for f in found if (f.job, f.ref) == (params["job_name"], params["ref"]))


def _webhook(works: Works, params: Mapping[str, Any]) -> object:
    if params.get("listener_id") is not None:
        return works.hub.listener(params["listener_id"])
    return None


def _delivery(works: Works, params: Mapping[str, Any]) -> object:
    """Not its body, which names people."""
    found, _ = works.hub.log(limit=1000)
    made = next(one for one in found if one.delivery_id == params["delivery_id"])
    return {"state": made.state, "replays": made.replays}


def _keys(works: Works, params: Mapping[str, Any]) -> object:
    if "key_id" in params:
        return works.keys.info(params["key_id"])
    return works.keys.of_account(works.subscriptions.find(params["subscriber"]).account_id, {})


def _frozen(works: Works, params: Mapping[str, Any]) -> object:
    found = works.subscriptions.find(params["subscriber"])
    return {"account": works.ledger.account_state(found.account_id), "subscriber": found.state}


def _deployment(works: Works, params: Mapping[str, Any]) -> object:
    return next(d for d in works.deployments.all() if d.name == params["name"]).model_dump(mode="json")


def _alias(works: Works, params: Mapping[str, Any]) -> object:
    return works.deployments.aliases()[params["name"]]


def _model(works: Works, params: Mapping[str, Any]) -> object:
    return next(card for card in works.deployments.models() if card.name == params["name"]).model_dump()


def _intent(works: Works, params: Mapping[str, Any]) -> object:
    return next(one for one in works.deployments.intents() if one.name == params["name"]).model_dump()


def _staff(works: Works, params: Mapping[str, Any]) -> object:
    return next(s for s in works.identity.staff() if s["name"] == params["name"])


def _approval(works: Works, params: Mapping[str, Any]) -> object:
    found, _ = works.approvals.all(limit=1000)
    return next(one for one in found if one.approval_id == params["approval_id"])


def _peppers(works: Works, _params: Mapping[str, Any]) -> object:
    return [
        {"version": row.version, "used_since": row.used_since, "retired_at": row.retired_at}
        for row in all_peppers(works.connection)
    ]


def _sessions(works: Works, params: Mapping[str, Any]) -> object:
    return len(works.identity.sessions(works.subscriptions.find(params["subscriber"]).subscriber_id))


def _offerings(works: Works, _params: Mapping[str, Any]) -> object:
    return {sold.offering.id: sold.offering_version for sold in works.offerings.all()}


def _prices(works: Works, params: Mapping[str, Any]) -> object:
    return works.subscriptions.contract_prices(works.subscriptions.find(params["subscriber"]))


def _consents(works: Works, params: Mapping[str, Any]) -> object:
    return works.consents.said(works.subscriptions.find(params["subscriber"]))


_LOOKS: Final[dict[str, Look]] = {
    "account freeze": _frozen, "alias add": _alias, "alias remove": _alias, "bill acknowledge": _files, "bill channel": _bill, "bill close-case": _case, "bill correct": _bill,
    "bill dispute answer": _dispute, "bill dispute ask": _dispute,
    "bill file": _files, "bill lapse": _files, "bill pay": _bill, "bill pay-out": _subscriber, "bill resend": _bill,
    "bill reverse": _payment, "bill write-off": _bill, "deployment add": _deployment,
    "deployment drain": _deployment, "deployment resume": _deployment, "deployment remove": _deployment, "deployment set": _deployment, "intent remove": _intent,
    "job release": _failed_job, "journal reset": _journal,
    "intent set": _intent, "model remove": _model, "model set": _model, "grant close": _grant, "grant write-off": _grant, "key create": _keys, "key revoke": _keys,
    "limit remove": _limits, "limit set": _limits, "member add": _member, "member cap": _member, "member transfer": _member,
    "offering load": _offerings, "order cancel": _product, "order change": _product, "order place": _subscriber,
    "order withdraw": _order, "order resume": _product, "order suspend": _product, "order work answer": _work, "quarantine drop": _quarantine,
    "quarantine release": _quarantine, "refund": _order, "staff add": _staff, "staff revoke": _staff, "staff rotate": _staff,
    "approval give": _approval, "approval refuse": _approval, "pepper new": _peppers, "pepper use": _peppers,
    "pepper retire": _peppers, "session end": _sessions,
    "subscriber close": _subscriber, "subscriber contract": _prices, "subscriber create": _subscriber,
    "webhook add": _webhook, "webhook remove": _webhook, "webhook replay": _delivery, "webhook rotate": _webhook,
    "subscriber consent": _consents, "subscriber erase": _subscriber, "subscriber real-name": _subscriber,
    "subscriber owner": _subscriber, "subscriber phone": _subscriber, "subscriber set": _subscriber, "subscriber top-up": _subscriber,
    "subscriber suspend": _subscriber, "subscriber resume": _subscriber, "subscriber identify": _subscriber,
}  # fmt: skip
# They commit as they go: what they did is what they say.
LONG: Final = frozenset(
    {"bill run", "offering move", "subscriber export", "vault erase-again", "vault rewrap"}
)
# What changes something of a subscriber's, of the books', or of who may: it goes into the audit trail.
AUDITED: Final = frozenset(_LOOKS) | LONG


def pinned(works: Works, params: Mapping[str, Any]) -> dict[str, Any]:
    """With the subscriber by its id: a number that is another one's, or nobody's, after the command still finds it."""
    found = dict(params)
    named = found.get("subscriber") or found.get("phone")
    if named:
        with contextlib.suppress(TokenworksError):
            found["subscriber"] = str(works.subscriptions.find(named).subscriber_id)
    return found


def person_of(works: Works, ref: str) -> UUID | None:
    """Whose key encrypts what is written down of an act on `ref`; None: nobody in particular."""
    return works.subscriptions.subscriber_of(ref)


def look(works: Works, command: str, params: Mapping[str, Any]) -> object:
    """What the command is about as it is now, None where it is not there (yet, or any more)."""
    what = _LOOKS.get(command)
    if what is None:
        return None
    with contextlib.suppress(TokenworksError, StopIteration, KeyError):
        return _masked(plain(what(works, params)))
    return None


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return mask_phone(value) if isinstance(value, str) else value


_REFS: Final = (
    "subscriber", "product", "order_id", "dispute_id", "bill_no", "work_order_id", "key_id", "grant_id", "journal_id", "account_id", "quarantine_id",
    "limit_id", "payment_id", "case_id", "listener_id", "delivery_id", "approval_id", "phone", "name", "ref", "offering_id",
)  # fmt: skip


def ref_of(command: str, params: Mapping[str, Any]) -> str:
    """What the row of the trail is found by."""
    return next((mask_phone(str(params[name])) for name in _REFS if params.get(name)), command)


def as_said(params: Mapping[str, Any]) -> dict[str, str]:
    """The command's options as they were given, but for what asks for a form of output."""
    return {
        name: mask_phone(str(value))
        for name, value in params.items()
        if value not in (None, (), False) and name not in {"as_json", "dry_run"}
    }
