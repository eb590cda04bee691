"""A shop's back end over the TM Forum APIs: list offerings, order, usage, bills. Nothing to install: the standard library.

STAFF_TOKEN is of `tokenworks staff add --role operator`, SUBSCRIBER a phone number or id, OFFERING what to order, ORDER_KEY
the shop's own number of this order: with the same one a repeated request orders nothing twice. WORKS_URL as in client.py.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

URL = os.environ.get("WORKS_URL", "http://127.0.0.1:8080")
CATALOG = "/tmf-api/productCatalogManagement/v4/productOffering"
ORDER = "/tmf-api/productOrderingManagement/v4/productOrder"
USAGE = "/tmf-api/usageManagement/v4/usage"
BILL = "/tmf-api/customerBillManagement/v4/customerBill"


def call(path: str, body: dict[str, Any] | None = None, key: str = "", **query: str) -> Any:
    """One request. Raises `SystemExit` with the problem details (RFC 9457) of a refusal."""
    url = f"{URL}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
    headers = {"authorization": f"Bearer {os.environ['STAFF_TOKEN']}", "content-type": "application/json"}
    if key:
        headers["idempotency-key"] = key
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        sys.exit(f"{path}: {error.code} {problem['title']}: {problem['detail']}")


def main() -> None:
    party = os.environ["SUBSCRIBER"]

    for offering in call(CATALOG, limit="100", isSellable="true"):
        print(f"offering {offering['id']}: {offering['name']}")

    order = call(
        ORDER,
        {
            "productOrderItem": [
                {
                    "id": "1",
                    "action": "add",
                    "productOffering": {"id": os.environ.get("OFFERING", "ctc-light")},
                }
            ],
            "relatedParty": [{"id": party}],
            "@type": "ProductOrder",
        },
        key=os.environ["ORDER_KEY"],
    )
    price = order["orderTotalPrice"][0]["price"]["taxIncludedAmount"]
    print(f"order {order['id']}: {order['state']}, {price['value']} {price['unit']} onto the phone bill")

    for record in call(USAGE, **{"relatedParty.id": party, "limit": "20"}):
        drawn = ", ".join(
            f"{part['bucketValueConvertedInAmount']['value']} {part['usageRatingTag']}"
            for part in record["ratedProductUsage"]
        )
        print(f"usage {record['usageDate']}: {record['description']}, {drawn}")

    for bill in call(BILL, **{"relatedParty.id": party, "limit": "12"}):
        print(
            f"bill {bill['billNo']}: {bill['amountDue']['value']} {bill['amountDue']['unit']}, {bill['state']}"
        )


if __name__ == "__main__":
    main()
