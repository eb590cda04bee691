"""The page that shows a new key, and how to set up clients with it."""

from fastapi import Request, Response

from tokenworks.pages.page import Visitor, render
from tokenworks.web.content import public_base_url
from tokenworks.web.services import Services


def show_key(
    request: Request,
    services: Services,
    visitor: Visitor,
    key: str | None,
    title: str,
    *,
    waits: bool = False,
    begins: str = "",
) -> Response:
    """Show a key, which is shown only this once. `key` is None after a repeated order."""
    base, shown = public_base_url(), key or "twk_…"
    set_ups = [
        (
            "OpenAI SDK · Cline · Cherry Studio · LobeChat",
            f"OPENAI_BASE_URL={base}/v1\nOPENAI_API_KEY={shown}",
        ),
        ("Anthropic SDK · Claude Code", f"ANTHROPIC_BASE_URL={base}\nANTHROPIC_AUTH_TOKEN={shown}"),
        ("curl", f"curl {base}/v1/models -H 'Authorization: Bearer {shown}'"),
    ]
    page = "order" if title == "ordered" else "keys"
    return render(
        request,
        services,
        "ordered.html",
        page,
        title,
        visitor=visitor,
        key=key,
        set_ups=set_ups,
        waits=waits,
        begins=begins,
    )
