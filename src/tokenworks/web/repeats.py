"""Requests that may come again: the first answer of an idempotency key is kept, in the request's transaction."""

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, Final, NamedTuple
from uuid import UUID

import msgspec
from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from tokenworks.kernel import Invalid
from tokenworks.trust import Answers, KeptAnswer
from tokenworks.web.principals import CurrentPrincipal
from tokenworks.web.services import RequestServices

# What an answer is for its asker alone, or for the moment: a repeat gets its own.
_KEPT_HEADERS: Final = frozenset({"content-type", "location", "etag"})


class RepeatedRequest(Exception):
    """The request came before under its idempotency key: this is what it was answered."""

    def __init__(self, kept: KeptAnswer) -> None:
        super().__init__("the request came before")
        self.kept = kept


class _Claim(NamedTuple):
    """The key of a request that is done now, until its answer is kept."""

    answers: Answers
    asker: str
    key: str
    person_id: UUID | None


async def _request_text(request: Request) -> bytes:
    """What makes two requests the same: method, path, query and body, whatever the spaces and the order of JSON's members."""
    body = await request.body()
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = msgspec.json.encode(msgspec.json.decode(body), order="deterministic")
    target = f"{request.method} {request.url.path}?{request.url.query}\n"
    return target.encode() + body


def _claim(
    request: Request,
    services: RequestServices,
    principal: CurrentPrincipal,
    text: Annotated[bytes, Depends(_request_text)],
    key: Annotated[str | None, Header(alias="Idempotency-Key", max_length=200)] = None,
) -> Iterator[str | None]:
    """What the request does, and the answer that is kept of it, are one transaction. Raises `RepeatedRequest`, `KeyReused`."""
    if key is None:
        yield None
        return
    asker = f"staff:{principal.name}" if principal.is_staff else f"member:{principal.member_id}"
    with services.transaction():
        kept = services.answers.begin(asker, key, text)
        if kept is not None:
            raise RepeatedRequest(kept)
        request.state.claim = _Claim(services.answers, asker, key, principal.subscriber_id)
        yield key


# Ends before the answer is sent: an answer that says "done" is after the commit.
OptionalIdempotencyKey = Annotated[str | None, Depends(_claim, scope="function")]


def _key(key: OptionalIdempotencyKey) -> str:
    if key is None:
        raise Invalid("this moves money: send an Idempotency-Key header, the same one when you try again")
    return key


IdempotencyKey = Annotated[str, Depends(_key, scope="function")]


class RepeatableRoute(APIRoute):
    """Keeps the answer of a route whose request had an idempotency key, in the request's transaction. The one place."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            response = await handle(request)
            claim: _Claim | None = getattr(request.state, "claim", None)
            if claim is not None:
                headers = {k: v for k, v in response.headers.items() if k in _KEPT_HEADERS}
                kept = KeptAnswer(response.status_code, headers, bytes(response.body))
                await run_in_threadpool(claim.answers.keep, claim.asker, claim.key, kept, claim.person_id)
            return response

        return handled
