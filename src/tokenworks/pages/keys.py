"""The page of keys: lists them with their limits, creates and revokes. A member sees only its own."""

from typing import Annotated, Final, Literal, NamedTuple

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from tokenworks.kernel import TokenworksError, format_tokens
from tokenworks.pages.new_key import show_key
from tokenworks.pages.page import FormText, Visitor, language_of, render, sign_in_page, visitor_of
from tokenworks.pages.phrases import read_tokens
from tokenworks.pages.words import WORDS
from tokenworks.subscriptions import day_of
from tokenworks.texts import Language
from tokenworks.trust import ApiKeyInfo
from tokenworks.web.actions import issue_key, key_owner
from tokenworks.web.principals import as_uuid, audit
from tokenworks.web.services import RequestServices, Services

router = APIRouter(include_in_schema=False)
KEYS_SHOWN: Final = 200
# The choices of the form; empty: no end date.
Days = Annotated[Literal["", "30", "90", "365"], Form()]


class _Form(NamedTuple):
    """What was entered for a new key, to be shown again beside a refusal."""

    name: str = ""
    cap: str = ""
    days: str = ""
    models: str = ""


@router.get("/keys")
def keys(
    request: Request,
    services: RequestServices,
    done: Annotated[Literal["key_stopped"] | None, Query()] = None,
) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/keys")
    return _list(request, services, visitor, done)


def _list(
    request: Request,
    services: Services,
    visitor: Visitor,
    done: str | None = None,
    error: TokenworksError | None = None,
    error_at: str | None = None,
    form: _Form = _Form(),  # noqa: B008 - immutable
) -> Response:
    language = language_of(request, visitor)
    words, now = WORDS[language], services.clock.now()
    found = list(reversed(services.access.keys(visitor.subscriber, key_owner(visitor.principal))))
    live = [k for k in found if k.revoked_at is None and (k.expires_at is None or k.expires_at > now)]
    ended = [k for k in found if k not in live]
    return render(
        request, services, "keys.html", "keys", "keys_title", visitor=visitor, error=error, error_at=error_at, form=form,
        done=words[f"done_{done}"] if done else None,
        live=[_row(k, language, words["key_live"]) for k in live[:KEYS_SHOWN]],
        ended=[
            _row(k, language, words["key_stopped" if k.revoked_at else "key_expired"]) for k in ended[:KEYS_SHOWN]
        ],
        more=words["more_keys"].format(count=len(live) - KEYS_SHOWN) if len(live) > KEYS_SHOWN else "",
    )  # fmt: skip


def _row(key: ApiKeyInfo, language: Language, state: str) -> dict[str, object]:
    words = WORDS[language]
    limits = []
    if key.cap_tokens is not None:
        limits.append(
            words["capped_at"].format(quantity=format_tokens(key.cap_tokens * 1000, "token", language))
        )
    if key.models:
        limits.append(words["only_models"].format(models=words["list_comma"].join(key.models)))
    if key.expires_at is not None:
        limits.append(words["expires_on"].format(day=day_of(key.expires_at)))
    return {
        "id": str(key.key_id), "name": key.name, "hint": key.hint, "state": state,
        "made": words["made_on"].format(day=day_of(key.created_at)),
        "limits": limits or [words["no_limits"]], "logged": key.content_log,
    }  # fmt: skip


@router.post("/keys")
def make(
    request: Request,
    services: RequestServices,
    name: FormText = "",
    cap: FormText = "",
    days: Days = "",
    models: FormText = "",
) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/keys")
    names = [
        part for part in models.replace("，", ",").replace("、", ",").replace(" ", ",").split(",") if part
    ]
    form = _Form(name, cap, days, models)
    error_at: str | None = "cap"
    try:
        cap_tokens = read_tokens(cap)
        error_at = None
        _, text = issue_key(
            services, visitor.principal, visitor.subscriber, name, models=names or None, expires_in_days=int(days) if days else None,
            cap_tokens=cap_tokens,
        )  # fmt: skip
    except TokenworksError as error:
        return _list(request, services, visitor, error=error, error_at=error_at, form=form)
    return show_key(request, services, visitor, text, "key_made")


@router.post("/key")
def another(request: Request, services: RequestServices) -> Response:
    """Create a key after a repeated order, whose first key is not shown again."""
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/order")
    return make(request, services, WORDS[language_of(request, visitor)]["from_order_page"])


@router.post("/keys/stop")
def stop(request: Request, services: RequestServices, id: FormText) -> Response:
    visitor = visitor_of(request, services, "owner", "admin", "member")
    if visitor is None:
        return sign_in_page(request, services, "/keys")
    key_id = as_uuid(id, "key")
    with services.transaction():
        if services.access.revoke_key(visitor.subscriber, key_id, key_owner(visitor.principal)):
            audit(services, visitor.principal, "key.revoke", key_id)
    return RedirectResponse("/keys?done=key_stopped", 303)
