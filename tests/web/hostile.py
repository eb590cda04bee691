"""Requests that are right but for one thing: a hostile text, an edge number, another type, in a body, a query, a path, a header."""

import copy
import json

TEXTS = (
    "", " ", "\x00", "a\x00b", "\x1b[31m", "\u202e", "\u200b", "\ud800", "\ufffe", "１２３", "٣", "²", "Ⅷ", "ﬀ", "𝟙", "i̇", "é" * 5,
    "a\u0300\u0301\u0302\u0303\u0304\u0305", "=1+1", "'; DROP TABLE bill; --", "%s", "%00", "{0}", "../..", "\r\nX: y", "\t", "NaN", "Infinity",
    "-0", "1e400", "1E-400", "0x10", "1_000", "٠.٥", "9" * 41, "x" * 65, "x" * 201, "x" * 1001, "null", "true", "[]", "+86" + "１" * 11,
    "+861380000000000000", "0000-00", "0000-01", "0001-01", "9999-12", "２０２７-04", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "9999-12-31", "1969-12-31T23:59:59Z",
    "2027-02-30T00:00:00Z", "2027-04-01T24:00:00Z", "2027-04-01T00:00:60Z", "00000000-0000-0000-0000-000000000000",
    "{00000000-0000-0000-0000-000000000000}", "urn:uuid:00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "-".join(["00000000-0000-0000-0000-000000000000"] * 2), "１1111111-1111-1111-1111-111111111111", "0" * 36, "-" * 37, "cursor", "AAAA",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 0.0, -0.0, 0.1, 0.001, 1e-9, 1e-10, 5e-324, 1.5, 999_999_999, 10**9, 10**12, 10**12 + 1, 10**15, 10**16, -(10**15), 2**31,
    2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**24, 10**30, 1e308, 10**400,
)  # fmt: skip
OTHERS = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"a": {"b": [1, "\x00"]}},
    {"\x00": 1},
    [["x"] * 3] * 3,
)
VALUES = (*TEXTS, *NUMBERS, *OTHERS)


def places(value, path=()):
    """Where something can be put into a document: each of its parts."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for at in range(len(value)):
            yield from places(value[at], (*path, at))


def changed(body, path, value):
    """The document with one part replaced, or (where `value` is `...`) taken out."""
    if not path:
        return None if value is ... else value
    made = copy.deepcopy(body)
    part = made
    for name in path[:-1]:
        part = part[name]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return made


def as_bytes(body):
    """JSON as a hostile client writes it: unpaired surrogates and numbers beyond all bounds as they are."""
    return json.dumps(body, ensure_ascii=True).encode()


RAW = (
    b"",
    b"\xff",
    b"{",
    b"[" * 2000,
    b'{"a":1' * 50,
    b"\xef\xbb\xbf{}",
    b'"\\ud800"',
    b"NaN",
    b"A|\xef\xbc\x91\r\n",
    b"A|tokenworks-phone-1|" + b"9" * 30,
)
HEADERS = ("Idempotency-Key", "If-Match", "If-None-Match", "Accept-Language", "Host", "Range")


def spoiled(random, body, names, more=()):
    """(body as bytes or None, query, path value or None, headers): a request's parts with one or two of them spoiled."""
    query, headers, part = {}, {}, None
    kinds = (
        ["query", "path", "header"]
        if body is None
        else ["body", "body", "body", "query", "path", "header", "raw"]
    )
    what = random.choice(kinds)
    sent = None if body is None else body.encode() if isinstance(body, str) else as_bytes(body)
    if what == "body" and isinstance(body, dict):
        for _ in range(random.choice((1, 1, 1, 2))):
            if more and random.random() < 0.4:  # also what is left out
                body = body | {random.choice(more): random.choice(VALUES)}
                continue
            path = random.choice(list(places(body))[1:] or [()])
            body = changed(body, path, random.choice((*VALUES, ...)))
            if not isinstance(body, dict):
                break
        sent = as_bytes(body)
    elif what in {"raw", "body"}:
        sent = random.choice((*RAW, sent + b"\x00"))
    elif what == "query":
        query = {random.choice(names): str(random.choice((*TEXTS, *NUMBERS)))}
    elif what == "path":
        part = str(random.choice((*TEXTS, *NUMBERS)))
    else:
        text = random.choice(TEXTS)
        headers = {random.choice(HEADERS): "".join(c for c in text if " " <= c <= "~") or "x"}
    return sent, query, part, headers
