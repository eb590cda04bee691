"""Pages of a list, selection of fields, ETags."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, NamedTuple

from fastapi import Depends, Query, Request, Response

from tokenworks.kernel import Conflict, Invalid
from tokenworks.web.content import encode, json_response
from tokenworks.web.urls import link_header

PAGE_DEFAULT: Final = 20
PAGE_MAX: Final = 100
OFFSET_MAX: Final = 1_000_000


class Page(NamedTuple):
    offset: int
    limit: int
    fields: frozenset[str] | None


def _page(
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
    fields: Annotated[str | None, Query(max_length=500)] = None,
) -> Page:
    return Page(offset, limit, _fields(fields))


def _fields(text: str | None) -> frozenset[str] | None:
    return None if not text else frozenset(part.strip() for part in text.split(",")) | {"id", "href"}


PageQuery = Annotated[Page, Depends(_page)]
FieldsQuery = Annotated[str | None, Query(max_length=500)]


class OutOfRange(Invalid):
    """The requested page begins behind the end of its list."""

    def __init__(self, total: int) -> None:
        super().__init__(f"offset: the list has {total} resources")
        self.total = total


def page_response(page: Page, resources: Sequence[Mapping[str, object]], total: int) -> Response:
    """A page of a list (TMF630): 206 if there are other pages, 416 if it begins behind the end, with links to the other pages."""
    if page.offset and page.offset >= total:
        raise OutOfRange(total)
    last = (total - 1) // page.limit * page.limit if total else 0
    offsets = {"first": 0, "last": last}
    if page.offset:
        offsets["prev"] = max(0, page.offset - page.limit)
    if page.offset + len(resources) < total:
        offsets["next"] = page.offset + page.limit
    headers = {
        "X-Total-Count": str(total),
        "X-Result-Count": str(len(resources)),
        "Link": link_header({rel: {"offset": str(at)} for rel, at in offsets.items()}),
    }
    if resources:
        headers["Content-Range"] = f"items {page.offset}-{page.offset + len(resources) - 1}/{total}"
    status = 206 if len(resources) < total else 200
    return json_response([select_fields(resource, page.fields) for resource in resources], status, headers)


def paginate(page: Page, resources: Sequence[Mapping[str, object]]) -> Response:
    """A page of a list whose resources are all in memory."""
    return page_response(page, resources[page.offset : page.offset + page.limit], len(resources))


def select_fields(resource: Mapping[str, object], fields: frozenset[str] | None) -> Mapping[str, object]:
    return resource if fields is None else {k: v for k, v in resource.items() if k in fields}


def _tag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def resource_response(
    request: Request, resource: Mapping[str, object], fields: str | None = None
) -> Response:
    """A resource with its ETag; 304 if the client has this version."""
    body = encode(select_fields(resource, _fields(fields)))
    tag = _tag(body)
    if tag in {part.strip() for part in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers={"ETag": tag})
    return Response(body, 200, {"ETag": tag}, "application/json")


class Changed(Conflict):
    """The resource is not the version that the client read."""


def check_match(request: Request, resource: Mapping[str, object]) -> None:
    """Check the `If-Match` header, if there is one. Raises `Changed`."""
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted.strip() not in {"*", _tag(encode(resource))}:
        raise Changed("it has changed since you read it: read it again")


def check_filters(request: Request, *names: str) -> None:
    """Raises `Invalid` if the query has a parameter that the route does not read: an ignored filter would show too much."""
    for name in request.query_params:
        if name not in {"offset", "limit", "fields", *names}:
            raise Invalid(f"one can filter by {', '.join(names) or 'nothing here'}, not by {name[:50]}")
