"""Personal data, as the law requires: consents with their texts, the real-name check, export, erasure."""

from collections.abc import Callable, Iterator
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from tokenworks.api.account.subscriber import subscriber_resource
from tokenworks.kernel import Invalid, Unavailable
from tokenworks.subscriptions import ConsentState, Erasure
from tokenworks.web.bodies import StrictBody, SubscriberReference
from tokenworks.web.content import instant, json_response, without_none
from tokenworks.web.principals import CurrentPrincipal, allow, audit, check_approval, own_subscriber
from tokenworks.web.privacy import SHA256_PATTERN, Purpose, close_and_erase, leave_and_erase, own_member
from tokenworks.web.services import RequestServices, Services

router = APIRouter(prefix="/api", tags=["privacy"])

# An export holds a database connection for as long as its client reads. Further exports are refused with 503.
EXPORTS_AT_ONCE: Final = 2


def consent_resource(state: ConsentState) -> dict[str, object]:
    """A purpose: its current text with the hash of it, and the last decision."""
    return without_none(
        {
            "purpose": state.text.purpose,
            "language": state.text.language,
            "text": state.text.text,
            "text_sha256": state.text.sha256,
            "given": state.given,
            "said_at": instant(state.answered_at),
            "said_text_sha256": state.answered_sha256,
            "text_changed": state.text_changed or None,
        }
    )


@router.get(
    "/consents",
    summary="Consents: the texts, and the subscriber's decision on each",
    **allow("owner", "admin", "operator", "auditor"),
)
def consents(
    services: RequestServices, principal: CurrentPrincipal, of: SubscriberReference = None
) -> Response:
    found = own_subscriber(services, principal, of)
    rows = [consent_resource(state) for state in services.consents.states(found)]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


class ConsentDecision(StrictBody):
    """`text_sha256`: the hash of the text that was shown; required if `given` is true."""

    given: bool
    text_sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)


@router.put(
    "/consents/{purpose}",
    summary="Give or withdraw a consent, from the next request on",
    **allow("owner", "operator"),
)
def say(
    body: ConsentDecision,
    services: RequestServices,
    principal: CurrentPrincipal,
    purpose: Purpose,
    of: SubscriberReference = None,
) -> Response:
    found = own_subscriber(services, principal, of)
    if body.given and body.text_sha256 is None:
        raise Invalid("text_sha256: say which text was shown; GET /api/consents has it")
    with services.transaction():
        services.consents.keep(
            found, purpose, given=body.given, text_sha256=body.text_sha256, said_by=principal.actor
        )
        states = {state.text.purpose: state for state in services.consents.states(found)}
        after = consent_resource(states[purpose])
        audit(services, principal, "subscriber.consent", found.subscriber_id, None, after)
    return json_response(after)


class RealName(StrictBody):
    """Name and number of the identity document. The number is not kept."""

    name: str = Field(min_length=1, max_length=100)
    id_number: str = Field(min_length=6, max_length=40)


@router.post("/real-name", summary="Have the carrier check the real name", **allow("owner", "operator"))
def real_name(
    body: RealName, services: RequestServices, principal: CurrentPrincipal, of: SubscriberReference = None
) -> Response:
    found = services.privacy.check_real_name(
        own_subscriber(services, principal, of), body.name, body.id_number
    )
    audit(
        services, principal, "subscriber.real_name", found.subscriber_id, None, {"real_name": found.real_name}
    )
    return json_response(subscriber_resource(services, found))


@router.get(
    "/export",
    summary="Export all data stored about the subscriber, as a streamed JSON document",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/json": {}}}},
    **allow("owner", "operator"),
)
def export(
    request: Request, services: RequestServices, principal: CurrentPrincipal, of: SubscriberReference = None
) -> Response:
    found = own_subscriber(services, principal, of)
    audit(services, principal, "subscriber.export", found.subscriber_id)
    headers = {
        "Content-Disposition": f'attachment; filename="tokenworks-{found.subscriber_id}.json"',
        "Cache-Control": "no-store",
    }
    pieces = _pieces(request, lambda services: services.privacy.export(found))
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


def _pieces(request: Request, export: Callable[[Services], Iterator[bytes]]) -> Iterator[bytes]:
    """Stream an export on a database connection of its own, which is closed after the last piece, or when the client leaves. Raises
    `Unavailable` at once if the maximum number of exports is in progress.
    """
    slots = request.app.state.exports
    if not slots.acquire(blocking=False):
        raise Unavailable("other exports are being read: try again in a minute")

    def read() -> Iterator[bytes]:
        try:
            with request.app.state.open_services() as services:
                yield from export(services)
        finally:
            slots.release()

    pieces = read()
    # Started here: a generator that was never started does not run its `finally`, which releases the slot.
    first = next(pieces)

    def streamed() -> Iterator[bytes]:
        try:
            yield first
            yield from pieces
        finally:
            pieces.close()  # type: ignore[attr-defined]

    return streamed()


@router.get(
    "/me/export",
    summary="Export a member's own personal data from the account that it is a member of",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/json": {}}}},
    **allow("admin", "member"),
)
def export_member(request: Request, services: RequestServices, principal: CurrentPrincipal) -> Response:
    found = own_member(services, principal)
    audit(services, principal, "member.export", found.member_id)
    headers = {
        "Content-Disposition": f'attachment; filename="tokenworks-{found.member_id}.json"',
        "Cache-Control": "no-store",
    }
    pieces = _pieces(request, lambda services: services.privacy.members.export(found))
    return StreamingResponse(pieces, media_type="application/json", headers=headers)


class MemberErasureRequest(StrictBody):
    """`confirm`: the last four digits of the member's own phone number."""

    confirm: str = Field(pattern=r"^[0-9]{4}$")


@router.post(
    "/me/erasure",
    status_code=204,
    summary="Leave the account and erase your personal data in it",
    **allow("admin", "member"),
)
def erase_member(
    body: MemberErasureRequest, services: RequestServices, principal: CurrentPrincipal
) -> Response:
    leave_and_erase(services, principal, body.confirm)
    return Response(status_code=204)


class ErasureRequest(StrictBody):
    """`confirm`: the last four digits of the phone number. `even_if_owed`: for staff; the debt can't be collected afterwards."""

    confirm: str = Field(pattern=r"^[0-9]{4}$")
    even_if_owed: bool = False


def erasure_resource(done: Erasure) -> dict[str, object]:
    return without_none(
        {
            "state": done.state,
            "waits_for": list(done.waits_for) or None,
            "backups_forget_at": instant(done.backups_forget_at),
            "identity_kept_until": instant(done.identity_kept_until),
        }
    )


@router.post(
    "/erasure",
    summary="Close the account and erase the personal data, as soon as nothing is owed",
    **allow("owner", "operator"),
)
def erase(
    body: ErasureRequest,
    services: RequestServices,
    principal: CurrentPrincipal,
    of: SubscriberReference = None,
) -> Response:
    found = own_subscriber(services, principal, of)
    if body.even_if_owed and not principal.is_staff:
        raise Invalid("even_if_owed: only the operator gives up what is owed")
    id_ = str(found.subscriber_id)
    with services.transaction():
        done = close_and_erase(services, found, body.confirm, even_if_owed=body.even_if_owed)
        if body.even_if_owed:
            check_approval(services, principal, "subscriber.erase", id_, abs(done.owes_nano), id_)
        audit(services, principal, "subscriber.erase", id_)
    return json_response(erasure_resource(done))
