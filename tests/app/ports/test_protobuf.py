"""Protocol Buffers' wire format, by the examples of its documentation and by a reader of our own."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from tests.support.collector import fields
from tokenworks.app.ports import protobuf


def test_the_examples_of_the_documentation():
    assert protobuf.varint(150) == b"\x96\x01"
    assert protobuf.number(1, 150) == b"\x08\x96\x01"
    assert protobuf.text(2, "testing") == b"\x12\x07testing"
    assert protobuf.data(3, protobuf.number(1, 150)) == b"\x1a\x03\x08\x96\x01"
    assert protobuf.varint(-2) == b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    assert protobuf.number(16, True) == b"\x80\x01\x01"


@given(
    st.integers(1, 500), st.integers(0, 2**64 - 1), st.binary(max_size=300), st.floats(allow_nan=False), st.text(max_size=50)
)  # fmt: skip
def test_what_is_written_is_read(field, value, data, double, text):
    message = (
        protobuf.number(field, value) + protobuf.data(field, data) + protobuf.fixed64(field, value)
        + protobuf.double(field, double) + protobuf.fixed32(field, value & 0xFFFFFFFF) + protobuf.text(field, text)
    )  # fmt: skip
    eight, four = struct.pack("<Q", value), struct.pack("<I", value & 0xFFFFFFFF)
    written = [value, data, eight, struct.pack("<d", double), four, text.encode()]
    assert list(fields(message)) == [(field, one) for one in written]


def test_a_text_that_is_no_utf_8_does_not_stop_the_others():
    assert list(fields(protobuf.text(1, "a\ud800b"))) == [(1, b"a?b")]
