"""The choices of a browser: language and appearance, kept in cookies."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from tokenworks.pages.page import LANGUAGE_COOKIE, THEME_COOKIE, FormText, own_page_or_shop

router = APIRouter(include_in_schema=False)
CHOICE_KEPT_S: Final = 365 * 86_400


@router.post("/language")
def language(to: Annotated[Literal["zh", "en"], Form()], back: FormText = "/order") -> Response:
    response = RedirectResponse(own_page_or_shop(back), 303)
    response.set_cookie(LANGUAGE_COOKIE, to, max_age=CHOICE_KEPT_S, samesite="lax", path="/")
    return response


@router.post("/theme")
def theme(to: Annotated[Literal["light", "dark", "system"], Form()], back: FormText = "/order") -> Response:
    """Choose an appearance. `system` follows the device, which is what a browser without a choice gets."""
    response = RedirectResponse(own_page_or_shop(back), 303)
    if to == "system":
        response.delete_cookie(THEME_COOKIE, path="/")
    else:
        response.set_cookie(THEME_COOKIE, to, max_age=CHOICE_KEPT_S, samesite="lax", path="/")
    return response
