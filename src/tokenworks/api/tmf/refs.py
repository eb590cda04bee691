"""What resources share: base paths, references between resources, quantities and amounts."""

from decimal import Decimal
from typing import Annotated, Final, Literal
from uuid import UUID

from fastapi import Query
from pydantic import Field

from tokenworks.charging import PER_UNIT
from tokenworks.kernel import Invalid, parse_money
from tokenworks.web.bodies import ExactNumber, TmfBody
from tokenworks.web.content import without_none
from tokenworks.web.urls import BILL_API

CATALOG: Final = "/tmf-api/productCatalogManagement/v4"
ORDER: Final = "/tmf-api/productOrderingManagement/v4"
INVENTORY: Final = "/tmf-api/productInventory/v4"
BALANCE: Final = "/tmf-api/prepayBalanceManagement/v4"
USAGE: Final = "/tmf-api/usageManagement/v4"
BILL: Final = BILL_API
PAYMENT: Final = "/tmf-api/paymentManagement/v4"
SERVICE: Final = "/tmf-api/serviceOrdering/v4"


PartyQuery = Annotated[str | None, Query(alias="relatedParty.id", max_length=64)]


def party(subscriber_id: object) -> list[dict[str, object]]:
    return [{"id": str(subscriber_id), "role": "customer", "@referredType": "Customer"}]


def product_ref(product_id: object, name: str | None = None) -> dict[str, object]:
    return without_none({"id": str(product_id), "href": f"{INVENTORY}/product/{product_id}", "name": name})


def offering_ref(offering_id: str) -> dict[str, object]:
    return {"id": offering_id, "href": f"{CATALOG}/productOffering/{offering_id}", "name": offering_id}


def quantity(amount: int, unit: str) -> dict[str, object]:
    """An amount in thousandths of a unit as an exact TMF Quantity."""
    whole, rest = divmod(amount, PER_UNIT)
    return {"amount": Decimal(f"{whole}.{rest:03d}") if rest else whole, "units": unit}


class Quantity(TmfBody):
    amount: ExactNumber = Field(max_digits=24, decimal_places=9)
    units: str = Field(max_length=20)


def exact_integer(value: Decimal) -> int:
    whole = int(value)
    if whole != value:
        raise Invalid("amount: that is finer than anything that is counted")
    return whole


def bucket_ref(bucket_id: object) -> dict[str, object]:
    return {"id": str(bucket_id), "href": f"{BALANCE}/bucket/{bucket_id}"}


def member_ref(member_id: UUID) -> dict[str, object]:
    return {"id": str(member_id), "@referredType": "Member"}


class Money(TmfBody):
    """An amount of at most 15 digits, so that a JSON number is exactly the decimal that was written."""

    unit: Literal["CNY"]
    value: ExactNumber = Field(max_digits=15, decimal_places=9)

    def nano(self) -> int:
        return parse_money(f"{self.value:f}").amount_nano
