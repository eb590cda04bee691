"""Repeatable requests: the first response under an idempotency key is kept, in the request's transaction."""

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Final, NamedTuple
from uuid import UUID

import msgspec
from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute

from tokenworks.kernel import Invalid
from tokenworks.trust import Answers, StoredAnswer
from tokenworks.web.principals import CurrentPrincipal
from tokenworks.web.services import RequestServices

# Headers of the first response that a repeated request gets, too. The others belong to one request.
_KEPT_HEADERS: Final = frozenset({"content-type", "location", "etag"})


class RepeatedRequest(Exception):
    """The same request came before under its idempotency key; `kept` is the response to it."""

    def __init__(self, kept: StoredAnswer) -> None:
        super().__init__("the request came before")
        self.kept = kept


class _Claim(NamedTuple):
    """The idempotency key of a request that is being handled, until its response is kept."""

    answers: Answers
    principal_name: str
    key: str
    person_id: UUID | None


async def _request_text(request: Request) -> bytes:
    """Two requests are the same if this is equal: method, path, query, and body without spaces and order of its JSON members."""
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
    """Open the transaction that has the request's changes and its kept response. Raises `RepeatedRequest`, `KeyReused`."""
    if key is None:
        yield None
        return
    principal_name = f"staff:{principal.name}" if principal.is_staff else f"member:{principal.member_id}"
    with services.transaction():
        kept = services.answers.begin(principal_name, key, text)
        if kept is not None:
            raise RepeatedRequest(kept)
        request.state.claim = _Claim(services.answers, principal_name, key, principal.subscriber_id)
        yield key


# The dependency ends before the response is sent, so that the commit comes before a response that says "done".
OptionalIdempotencyKey = Annotated[str | None, Depends(_claim, scope="function")]


def _key(key: OptionalIdempotencyKey) -> str:
    if key is None:
        raise Invalid("this moves money: send an Idempotency-Key header, the same one when you try again")
    return key


IdempotencyKey = Annotated[str, Depends(_key, scope="function")]


class RepeatableRoute(APIRoute):
    """A route that keeps its response in the request's transaction, if the request has an idempotency key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[None, None, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            response = await handle(request)
            claim: _Claim | None = getattr(request.state, "claim", None)
            if claim is not None:
                headers = {k: v for k, v in response.headers.items() if k in _KEPT_HEADERS}
                kept = StoredAnswer(response.status_code, headers, bytes(response.body))
                await run_in_threadpool(
                    claim.answers.keep, claim.principal_name, claim.key, kept, claim.person_id
                )
            return response

        return handled
