"""The table of operations that staff may not do alone: every operation that moves money of a subscriber, or gives it up.

Above `two_persons_above_yuan` such an operation needs the approval of a second person, through whichever command or route it comes.
`ONE_PERSON_OPERATIONS` has every other operation of staff that changes data of a subscriber or of the books, and why one person is
enough. A test demands that each command and each route is in one of the two tables.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class MoneyMove:
    """An operation that moves money. `amount`: what is compared with the limit. `commands`, `routes`: where it can be called.
    `always`: it needs two persons for any amount, by a state of its own instead of an approval.
    """

    action: str
    amount: str
    commands: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    always: bool = False


_OPERATIONS: Final = "/api/operations"
_TMF: Final = "/tmf-api"
MONEY_MOVES: Final = (
    MoneyMove(
        "refund", "what comes back at most", ("refund",), (f"POST {_TMF}/paymentManagement/v4/refund",)
    ),
    MoneyMove(
        "bill.correct",
        "the credit note's",
        ("bill correct",),
        (f"POST {_TMF}/customerBillManagement/v4/customerBill/{{id}}/creditNote",),
    ),
    MoneyMove(
        "payment.reverse",
        "the payment's",
        ("bill reverse",),
        (f"POST {_OPERATIONS}/payments/{{id}}/reversal",),
    ),
    MoneyMove(
        "bill.write_off",
        "what is open on the bill",
        ("bill write-off",),
        (f"POST {_OPERATIONS}/bills/{{id}}/actions",),
    ),
    MoneyMove("bill.pay_out", "what a closed subscriber gets", ("bill pay-out",)),
    MoneyMove(
        "subscriber.contract",
        "by how much a cycle or a step is cheaper than the offering's own price",
        ("subscriber contract",),
        (f"POST {_OPERATIONS}/subscribers/{{id}}/contract-prices",),
    ),
    MoneyMove("subscriber.credit_limit", "by how much the limit is raised", ("subscriber set",)),
    MoneyMove(
        "balance.topup",
        "what staff puts on a subscriber's bill",
        ("subscriber top-up",),
        (f"POST {_TMF}/prepayBalanceManagement/v4/topupBalance",),
    ),
    MoneyMove(
        "subscriber.erase",
        "what is owed either way and given up",
        ("subscriber erase",),
        ("POST /api/erasure",),
    ),
    MoneyMove(
        "balance.adjust",
        "any",
        (),
        (
            f"POST {_TMF}/prepayBalanceManagement/v4/adjustBalance",
            f"PATCH {_TMF}/prepayBalanceManagement/v4/adjustBalance/{{id}}",
        ),
        always=True,
    ),
)
ACTIONS: Final = frozenset(move.action for move in MONEY_MOVES)

_NO_MONEY: Final = "no money moves"
_BY_RULE: Final = (
    "the catalogue or the contract fixes its price and its refund; a subscriber does the same alone"
)
_MONEY_IN: Final = "books money that came in, which the bank's or the carrier's statement also shows; undoing it is a reversal"
_BY_RUN: Final = "the amounts are fixed by what is due: no person chooses one"
_TOKENS: Final = "moves tokens within one account, or those of a record or grant, which its hold limits"
ONE_PERSON_OPERATIONS: Final[dict[str, str]] = {
    # Commands.
    **dict.fromkeys(
        ("order place", "order change", "order cancel", "order withdraw", "order suspend", "order resume", "subscriber close"), _BY_RULE
    ),
    **dict.fromkeys(("bill pay", "bill acknowledge"), _MONEY_IN),
    **dict.fromkeys(("bill run", "bill file", "order work answer", "job release"), _BY_RUN),
    **dict.fromkeys(
        ("grant close", "grant write-off", "journal reset", "member transfer", "quarantine drop", "quarantine release"), _TOKENS
    ),
    **dict.fromkeys(
        (
            "account freeze", "alias add", "alias remove", "approval give", "approval refuse", "bill channel", "bill close-case",
            "bill dispute answer", "bill dispute ask", "bill lapse", "bill resend", "deployment add", "deployment drain",
            "deployment remove", "deployment resume", "deployment set", "import litellm", "import new-api", "import one-api", "intent remove",
            "intent set", "key cache", "key create", "key fallback", "key revoke",
            "limit remove", "limit set", "member add", "member cap", "model import", "notice incident", "notice resend", "notice switch",
            "model remove", "model set", "pepper new", "pepper retire", "pepper use", "session end", "staff add", "staff email",
            "staff enrol", "staff revoke", "staff role", "staff rotate", "staff sign-out", "subscriber consent", "subscriber create",
            "subscriber export", "subscriber identify", "subscriber owner", "subscriber phone", "subscriber real-name",
            "subscriber resume", "subscriber suspend", "vault rewrap", "webhook add", "webhook remove", "webhook replay",
            "webhook rotate",
        ),
        _NO_MONEY,
    ),
    "offering load": "the catalogue for all subscribers, read from a reviewed file; over HTTP another person approves a draft",
    "offering move": "a price of the catalogue, of which subscribers are notified before it applies",
    "vault erase-again": "erases persons again who were erased before a backup was restored",
    # Routes.
    **dict.fromkeys(
        (
            f"POST {_TMF}/productOrderingManagement/v4/productOrder",
            f"POST {_TMF}/productOrderingManagement/v4/cancelProductOrder",
        ),
        _BY_RULE,
    ),
    **dict.fromkeys(
        (
            f"POST {_TMF}/paymentManagement/v4/payment",
            f"POST {_OPERATIONS}/charge-files/acknowledgements",
        ),
        _MONEY_IN,
    ),
    **dict.fromkeys(
        (
            f"POST {_OPERATIONS}/bill-runs", f"POST {_OPERATIONS}/charge-files", f"POST {_OPERATIONS}/failed-jobs/{{id}}/release",
            f"PATCH {_OPERATIONS}/work-orders/{{id}}", f"PATCH {_TMF}/serviceOrdering/v4/serviceOrder/{{id}}",
        ),
        _BY_RUN,
    ),
    f"POST {_TMF}/prepayBalanceManagement/v4/transferBalance": _TOKENS,
    **dict.fromkeys(
        (
            "PUT /api/consents/{purpose}", "POST /api/disputes", "DELETE /api/keys/{id}", "POST /api/quotes", "POST /api/real-name",
            "POST /api/sign-out", f"PATCH {_OPERATIONS}/approvals/{{id}}", f"POST {_OPERATIONS}/charge-files/{{sequence}}/lapse",
            f"PATCH {_OPERATIONS}/disputes/{{id}}", f"PATCH {_OPERATIONS}/reconciliation-cases/{{id}}",
            f"POST {_OPERATIONS}/staff/token", f"POST {_OPERATIONS}/notice-deliveries/{{id}}/resend",
            f"POST {_OPERATIONS}/incidents", f"POST {_OPERATIONS}/subscribers", f"POST {_OPERATIONS}/subscribers/{{id}}/actions",
            f"PUT {_OPERATIONS}/subscribers/{{id}}/identity", f"POST {_OPERATIONS}/webhook-deliveries/{{id}}/replay",
            f"POST {_OPERATIONS}/webhooks/{{id}}/secret",
            *(
                f"{method} {_TMF}/{api}/v4/hub{end}"
                for api in ("customerBillManagement", "paymentManagement", "productInventory", "productOrderingManagement",
                            "serviceOrdering")
                for method, end in (("POST", ""), ("DELETE", "/{id}"))
            ),
        ),
        _NO_MONEY,
    ),
    "PATCH /api/subscriber": "the name, the cap and the lock, which the subscriber decides alone; the credit limit is not among them",
    **dict.fromkeys(
        (
            f"POST {_TMF}/productCatalogManagement/v4/productOffering",
            f"PATCH {_TMF}/productCatalogManagement/v4/productOffering/{{id}}",
            f"DELETE {_TMF}/productCatalogManagement/v4/productOffering/{{id}}",
        ),
        "a draft has its own approval by a second person, for any price",
    ),
}  # fmt: skip
"""Command (`bill pay`) or route (`POST /api/…`) -> why one person is enough."""
