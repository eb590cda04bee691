"""How a request came to its deployment, in one text beside what releases of before wrote there."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.catalog import Counts
from tokenworks.charging.ledger.settle_rows import USAGE_COLUMNS, usage_line
from tokenworks.charging.messages import UsageRecord
from tokenworks.charging.model import decode_record, encode_record
from tokenworks.charging.routing_note import TRIED_MAX, RoutingNote, client_id_mark, note_text, read_note

REASON = "auto: seems easy (0.20), quality 40 is enough, small has 50, costs about 12 token"
TEXTS = st.text(max_size=20)


def test_what_releases_of_before_wrote_is_the_reason():
    assert read_note(None) == RoutingNote()
    assert read_note(REASON) == RoutingNote(REASON)
    assert note_text(REASON, None, None) == REASON
    assert note_text(None, [], None) is None
    assert read_note('{"not whole') == RoutingNote('{"not whole')


@given(st.none() | TEXTS.filter(lambda text: not text.startswith("{")), st.lists(st.tuples(TEXTS, TEXTS), max_size=TRIED_MAX), st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:~/=-]{0,127}", fullmatch=True))  # fmt: skip
def test_what_is_written_is_read(choice, tried, own_id):
    text = note_text(choice, tried, own_id)
    assert read_note(text) == RoutingNote(choice, tuple(tried), own_id)
    if own_id is not None:
        assert client_id_mark(own_id) in text


def test_the_line_of_a_record_is_the_same_from_its_row():
    """The chain's bytes are made again from the row, whose text is all that there is of it."""
    record = UsageRecord(
        "a" * 32, "b" * 32, "c" * 32, 2, "d" * 32, "e" * 32, "chat", "m", "d2", "complete", "completed", "provider", 1, 2, 3, 4,
        Counts(output=1), 1, [], [], [], "up", True, "auto", REASON, None, 0, "own-1", [("d1", "rate 429"), ("d\\3", 'a "b"\n')],
    )  # fmt: skip
    line = usage_line(record, "t1", "t2", "f" * 32, 7, "9" * 32)
    cells = line.rstrip("\n").split("\t")
    names = [name.strip() for name in USAGE_COLUMNS.split(",")]
    assert len(cells) == len(names)
    # As COPY reads it.
    text = re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), cells[names.index("choice")])
    assert read_note(text) == RoutingNote(REASON, tuple(record.tried), "own-1")
    of_row = decode_record(encode_record(record))
    of_row.client_request_id = of_row.tried = None
    of_row.choice = text
    assert usage_line(of_row, "t1", "t2", "f" * 32, 7, "9" * 32) == line


def test_a_journal_of_before_is_read_and_one_of_now_says_no_more_than_it_has():
    plain = UsageRecord(
        "a" * 32, "b" * 32, "c" * 32, 1, "d" * 32, "e" * 32, "chat", "m", "d", "complete", "completed", "provider", 1, 2, 3, 4,
        Counts(output=1), 1, [], [], [], None,
    )  # fmt: skip
    text = encode_record(plain)
    assert b"client_request_id" not in text
    assert b"tried" not in text
    assert decode_record(text) == plain


@given(st.dictionaries(TEXTS, TEXTS, max_size=4), st.none() | st.just(REASON))
def test_tags_are_written_and_read_beside_the_rest(tags, choice):
    found = read_note(note_text(choice, None, None, tags))
    assert (found.choice, dict(found.tags)) == (choice, tags)


def test_a_tag_does_not_pass_for_the_clients_own_id():
    text = note_text(None, None, None, {"t": client_id_mark("mine")})
    assert client_id_mark("mine") not in text


def test_tags_are_in_the_line_that_the_hash_covers_and_a_record_without_them_is_as_before():
    made = UsageRecord(
        "a" * 32, "b" * 32, "r", 1, "k", "m", "chat", "m", "d", "complete", "completed", "provider", 1, 2, None, 1, Counts(), None, [], [], [], None,
    )  # fmt: skip
    before = encode_record(made)
    assert b"tags" not in before and decode_record(before).tags is None
    plain = usage_line(made, "s", "e", "j", 1, "n")
    made.tags = {"team": "a"}
    assert decode_record(encode_record(made)).tags == {"team": "a"}
    tagged = usage_line(made, "s", "e", "j", 1, "n")
    assert tagged != plain and '"tags":{"team":"a"}' in tagged
    made.tags = {"team": "b"}
    assert usage_line(made, "s", "e", "j", 1, "n") != tagged
