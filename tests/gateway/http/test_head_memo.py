"""A head that differs from the connection's last one in its content length alone is not parsed again."""

import pytest

from tokenworks.gateway.http.head import Head
from tokenworks.gateway.http.head_memo import MEMO_BYTES_MAX, HeadMemo

RAW = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\naccept: */*\r\n\r\n"


@pytest.fixture
def memo():
    made = HeadMemo()
    assert made.prepare(RAW)
    made.head = Head()
    return made


def body_start(memo, data):
    """As a connection asks."""
    return memo.body_start(memo.head, data) if data.startswith(memo.before) else -1


def test_only_the_length_may_differ(memo):
    other = RAW.replace(b"12", b"4096")
    assert body_start(memo, other + b"body") == len(other)
    assert memo.head.body_length == 4096


@pytest.mark.parametrize(
    "data",
    [
        RAW.replace(b"accept", b"cookie"),
        RAW.replace(b"host: x", b"host: y"),
        RAW.replace(b"12", b"1a"),
        RAW.replace(b"12", b""),
        RAW.replace(b"12", b"1" * 14),
        RAW[:-1],
        RAW[:60],
        b"",
    ],
)
def test_any_other_head_is_parsed(memo, data):
    assert body_start(memo, data) == -1


def test_heads_without_a_plain_length_and_large_ones_are_not_remembered():
    memo = HeadMemo()
    assert not memo.prepare(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert not memo.prepare(RAW + b"x" * MEMO_BYTES_MAX)
