import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenworks.charging.errors import JournalBusy, JournalCorrupt, JournalFailed
from tokenworks.charging.host.journal import FRAME, HEADER, Journal


def write(folder, payloads, segment_bytes=65536):
    journal = Journal(folder, segment_bytes)
    list(journal.replay(1))
    journal.begin_segment(b"checkpoint")
    for payload in payloads:
        if not journal.has_room(len(payload)):
            journal.commit()
            journal.begin_segment(b"checkpoint", room_bytes=2 * len(payload))
        journal.append(payload)
    journal.commit()
    journal.close()


def read(folder, from_seq=1):
    journal = Journal(folder)
    try:
        return [frame.payload for frame in journal.replay(from_seq)]
    finally:
        journal.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=30_000), max_size=12))
def test_what_was_committed_is_read_back(tmp_path_factory, payloads):
    folder = tmp_path_factory.mktemp("journal")
    write(folder, payloads)
    assert [p for p in read(folder) if p != b"checkpoint"] == [p for p in payloads if p != b"checkpoint"]


def segment_of(folder):
    return sorted(folder.glob("*.seg"))[0]


def test_a_cut_tail_is_the_end(tmp_path):
    write(tmp_path, [b"one", b"two", b"three"])
    path = segment_of(tmp_path)
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    for cut in range(1, FRAME.size + len(b"three") + 1):
        path.write_bytes(data[: end - cut].ljust(len(data), b"\0"))
        assert read(tmp_path)[-1] in {b"two"}


def test_damage_with_whole_frames_behind_it_is_corruption(tmp_path):
    write(tmp_path, [b"one", b"two", b"three"])
    path = segment_of(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"one")
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match="damaged"):
        read(tmp_path)


def test_every_flipped_bit_of_a_middle_frame_is_noticed(tmp_path):
    write(tmp_path, [b"one", b"two", b"three"])
    path = segment_of(tmp_path)
    good = path.read_bytes()
    start = good.index(b"two") - FRAME.size
    for at in range(start, start + FRAME.size + 3):
        for bit in range(8):
            data = bytearray(good)
            data[at] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(JournalCorrupt):
                read(tmp_path)


def test_a_missing_segment_is_corruption(tmp_path):
    write(tmp_path, [os.urandom(30_000) for _ in range(6)])
    segments = sorted(tmp_path.glob("*.seg"))
    assert len(segments) >= 3
    segments[1].unlink()
    with pytest.raises(JournalCorrupt, match="begins at"):
        read(tmp_path)


def test_another_journals_segment_is_refused(tmp_path):
    write(tmp_path, [b"one"])
    path = segment_of(tmp_path)
    data = bytearray(path.read_bytes())
    data[10] ^= 1  # in the journal's id
    path.write_bytes(data)
    with pytest.raises(JournalCorrupt, match="not a segment of journal"):
        read(tmp_path)
    assert HEADER.size == 32


def test_replay_begins_at_the_segment_that_holds_the_sequence(tmp_path):
    write(tmp_path, [os.urandom(30_000) for _ in range(6)])
    firsts = [int(path.stem) for path in sorted(tmp_path.glob("*.seg"))]
    assert len(read(tmp_path, firsts[-1])) < len(read(tmp_path, 1))


def test_one_journal_has_one_recorder(tmp_path):
    journal = Journal(tmp_path)
    with pytest.raises(JournalBusy):
        Journal(tmp_path)
    journal.close()


def test_after_a_failed_write_nothing_is_written_any_more(tmp_path, monkeypatch):
    journal = Journal(tmp_path, 65536)
    list(journal.replay(1))
    journal.begin_segment(b"checkpoint")
    journal.append(b"lost")

    def fail(*_):
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(JournalFailed):
            journal.commit()
    with pytest.raises(JournalFailed, match="not written again"):
        journal.commit()
    journal.close()
    assert read(tmp_path) == [b"checkpoint"]


def test_settled_segments_are_deleted_when_they_are_old(tmp_path):
    write(tmp_path, [os.urandom(30_000) for _ in range(6)])
    journal = Journal(tmp_path)
    firsts = [first for first, _ in journal.segments()]
    assert journal.delete_settled(10**9, 3600, 0) == 0
    assert journal.delete_settled(firsts[1] - 1, 0, 2**40) == 1
    assert journal.delete_settled(10**9, 0, 2**40) == len(firsts) - 2
    assert len(journal.segments()) == 1
    journal.close()
