"""Forms of passkeys on the page of sessions: add, rename, remove."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import TokenworksError
from tokenworks.pages.page import FormText, Visitor, sign_in_page, visitor_of
from tokenworks.pages.sessions import show_sessions
from tokenworks.trust import PasskeyNotFound
from tokenworks.web.passkeys import (
    ANSWER_CHARS_MAX,
    add_passkey,
    made_credential,
    remove_passkey,
    rename_passkey,
)
from tokenworks.web.principals import as_uuid
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)
# What `passkeys.js` fills in: the answer of the device, as JSON.
Credential = Annotated[str, Form(max_length=ANSWER_CHARS_MAX)]
_Done = Literal["passkey_added", "passkey_renamed", "passkey_removed"]


def _do(request: Request, services: Services, act: Callable[[Visitor], object], done: _Done) -> Response:
    """Do what a form asks, and return to the page of sessions, with what was done or why not."""
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/sessions")
    try:
        act(visitor)
    except TokenworksError as error:
        return show_sessions(request, services, visitor, error=error)
    return RedirectResponse(f"/sessions?done={done}", 303)


@router.post("/passkeys/add")
def add(request: Request, services: RequestServices, name: FormText, credential: Credential) -> Response:
    return _do(
        request, services,
        lambda visitor: add_passkey(services, visitor.principal, made_credential(credential), name.strip()),
        "passkey_added",
    )  # fmt: skip


@router.post("/passkeys/rename")
def rename(request: Request, services: RequestServices, id: FormText, name: FormText) -> Response:
    return _do(
        request, services,
        lambda visitor: rename_passkey(services, visitor.principal, as_uuid(id, "passkey"), name.strip()),
        "passkey_renamed",
    )  # fmt: skip


@router.post("/passkeys/remove")
def remove(request: Request, services: RequestServices, id: FormText) -> Response:
    def act(visitor: Visitor) -> None:
        # A form that is sent twice, or from a page that was left open, finds the passkey gone: that is what it asked for.
        with suppress(PasskeyNotFound):
            remove_passkey(services, visitor.principal, as_uuid(id, "passkey"))

    return _do(request, services, act, "passkey_removed")
