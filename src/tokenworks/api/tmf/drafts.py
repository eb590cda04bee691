"""TMF620 for staff: drafting, approving and publishing an offering. Catalogue files are loaded beside this.

A draft is `In design`; approved by another person it is `In test`; published it is `Active` (or what its entry says).
"""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import Field

from tokenworks.api.tmf.catalog_resources import draft_resource, find_resource, offering_resource
from tokenworks.api.tmf.refs import CATALOG
from tokenworks.kernel import Invalid
from tokenworks.web.bodies import TmfBody
from tokenworks.web.content import json_response
from tokenworks.web.principals import CurrentPrincipal, allow, audit
from tokenworks.web.repeats import OptionalIdempotencyKey, RepeatableRoute
from tokenworks.web.services import RequestServices

router = APIRouter(prefix=CATALOG, tags=["TMF620 product catalogue"], route_class=RepeatableRoute)


class ProductOfferingCreate(TmfBody):
    """`name` is the entry's; `catalogueEntry` is an entry of a catalogue file."""

    name: str = Field(min_length=1, max_length=100)
    catalogue_entry: dict[str, object] = Field(alias="catalogueEntry", max_length=100)


class ProductOfferingUpdate(TmfBody):
    """Either a new entry, or a new status: In design (approval withdrawn), In test (approved), Active (published)."""

    catalogue_entry: dict[str, object] | None = Field(default=None, alias="catalogueEntry", max_length=100)
    lifecycle_status: Literal["In design", "In test", "Active"] | None = Field(
        default=None, alias="lifecycleStatus"
    )


@router.post("/productOffering", status_code=201, summary="Draft an offering", **allow("operator"))
def draft_offering(
    body: ProductOfferingCreate,
    services: RequestServices,
    principal: CurrentPrincipal,
    _key: OptionalIdempotencyKey,
) -> Response:
    if body.catalogue_entry.get("name") != body.name:
        raise Invalid("name: it is the name of the entry")
    with services.transaction():
        made = services.drafts.begin(body.catalogue_entry, principal.name)
        resource = draft_resource(made)
        audit(services, principal, "offering.draft", made.offering.id, None, resource["catalogueEntry"])
    return json_response(resource, 201, {"Location": str(resource["href"])})


@router.patch("/productOffering/{id}", summary="Change, approve or publish a draft", **allow("operator"))
def change_offering(
    body: ProductOfferingUpdate,
    services: RequestServices,
    principal: CurrentPrincipal,
    id: str,
    _key: OptionalIdempotencyKey,
) -> Response:
    entry, status = body.catalogue_entry, body.lifecycle_status
    if (entry is None) == (status is None):
        raise Invalid("either catalogueEntry or lifecycleStatus is changed")
    with services.transaction():
        if entry is not None:
            resource = draft_resource(services.drafts.rewrite(id, entry, principal.name))
        elif status == "Active":
            services.drafts.publish(id)
            found = [
                offering_resource(services, sold)
                for sold in services.offerings.all()
                if sold.offering.id == id
            ]
            resource = find_resource(found, id, "offering")
        elif status == "In test":
            resource = draft_resource(services.drafts.approve(id, principal.name))
        else:
            resource = draft_resource(services.drafts.withdraw_approval(id))
        audit(
            services,
            principal,
            f"offering.{'change' if status is None else status.lower()}",
            id,
            None,
            resource,
        )
    return json_response(resource)


@router.delete("/productOffering/{id}", status_code=204, summary="Delete a draft", **allow("operator"))
def remove_draft(services: RequestServices, principal: CurrentPrincipal, id: str) -> Response:
    with services.transaction():
        services.drafts.remove(id)
        audit(services, principal, "offering.draft.remove", id)
    return Response(status_code=204)
