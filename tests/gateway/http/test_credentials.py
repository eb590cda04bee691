"""Keys in the places that clients put them, several at once, the one of our form first."""

import pytest

from tokenworks.gateway.http.credentials import keys_of
from tokenworks.trust.model import format_key

OURS, OTHER = format_key("dev", 12345), format_key("dev", 54321)


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer %b"},
        {b"authorization": b"bearer   %b"},
        {b"authorization": b"BEARER %b "},
        {b"authorization": b"%b"},
        {b"authorization": b"Bearer Bearer %b"},
        {b"authorization": b'Bearer "%b"'},
        {b"x-api-key": b"%b"},
        {b"x-api-key": b"Bearer %b"},
        {b"api-key": b" %b "},
        {b"x-goog-api-key": b"%b"},
        {b"authorization": b"Bearer sk-not-ours", b"x-api-key": b"%b"},
        {b"authorization": b"Bearer %b", b"x-api-key": b"dummy"},
        {b"authorization": b"Basic dXNlcjpwYXNz", b"api-key": b"%b"},
        {b"authorization": b"Bearer ", b"x-goog-api-key": b"%b"},
        {b"authorization": b"Bearer", b"x-goog-api-key": b"%b"},
    ],
)
def test_the_valid_one_counts(headers):
    found = keys_of({name: value.replace(b"%b", OURS.encode()) for name, value in headers.items()}, b"")
    assert found[0] == OURS


def test_two_of_ours_are_both_there():
    assert keys_of({b"authorization": b"Bearer " + OURS.encode(), b"x-api-key": OTHER.encode()}, b"") == (
        OURS,
        OTHER,
    )
    assert keys_of({b"authorization": b"Bearer " + OURS.encode(), b"x-api-key": OURS.encode()}, b"") == (
        OURS,
    )


def test_a_query_counts_where_no_header_has_one():
    query = b"a=b&key=" + OURS.encode()
    assert keys_of({}, query) == (OURS,)
    assert keys_of({b"x-api-key": b"sk-x"}, query) == ("sk-x",)
    assert keys_of({}, b"monkey=1") == ()


def test_nothing_is_no_key():
    assert keys_of({}, b"") == ()
    assert keys_of({b"authorization": b""}, b"") == ()
    assert keys_of({b"authorization": b"Digest x"}, b"") == ()
