"""The id that a client gives its request: kept where it is one, ignored where it could be anything else."""

import pytest

from tokenworks.gateway.http.own_ids import OWN_ID_CHARS_MAX, own_id


@pytest.mark.parametrize(
    "value", ["a", "7f0c1f9e-9d6b-4c9e-8a55-2d1e5a1c6f30", "01JD3X8Y5T9F", "req_abc.1:2~3/4=5", "x" * OWN_ID_CHARS_MAX, "123", "1" * 20, "0123456789abcdef"],
)  # fmt: skip
def test_ids(value):
    assert own_id({b"x-request-id": value.encode()}) == value


@pytest.mark.parametrize(
    "value",
    [
        "", " a", "a b", "a,b", 'a"', "a'", "a\\", "a\x1b[2J", "a\n", "é", "x" * (OWN_ID_CHARS_MAX + 1), "-a", "+8613800000001", "13800000001", "138-0000-0001",
        "mail@example.com", "twk_dev_0123456789abcdef", "TWK_dev_x", "sk-proj-123", "Bearer", "<script>", "%0d%0a",
    ],
)  # fmt: skip
def test_no_ids(value):
    assert (own_id({b"x-request-id": value.encode()}) is None) == (value != "Bearer")


def test_the_header_of_its_own_comes_first():
    assert own_id({b"x-request-id": b"proxy", b"x-client-request-id": b"client"}) == "client"
    assert own_id({b"x-request-id": b"proxy", b"x-client-request-id": b"no id"}) == "proxy"
    assert own_id({}) is None
