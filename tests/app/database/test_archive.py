"""The log is kept whole, once, and never over another one's; journals before it. What is old goes, what a backup needs stays."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.server import Server, until
from tokenworks.app.database.archive import check_apart, keep_journal, keep_log, source_of
from tokenworks.app.database.backup import find_backups, prune
from tokenworks.app.database.manifest import MANIFEST
from tokenworks.app.database.places import Damaged, Exists, Folder, pack, prepare, put_json, sha256, unpack
from tokenworks.app.database.wal_handover import FileMissing, LogHandover
from tokenworks.charging import Journal, copy_journal, journal_end
from tokenworks.kernel import Unavailable

SEGMENT = "000000010000000000000007"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def place(tmp_path):
    made = Folder(tmp_path / "place")
    prepare(made)
    return made


def test_the_same_file_again_is_nothing_and_another_one_is_refused(place):
    keep_log(place, "1-a", SEGMENT, b"x" * 1000)
    keep_log(place, "1-a", SEGMENT, b"x" * 1000)
    with pytest.raises(Exists, match="is another file"):
        keep_log(place, "1-a", SEGMENT, b"y" * 1000)
    assert unpack("it", place.get(f"wal/1-a/{SEGMENT}.zst")) == b"x" * 1000
    # Another life of the cluster writes beside it.
    keep_log(place, "1-b", SEGMENT, b"y" * 1000)
    # What is damaged there is not taken for the same.
    place.put(f"wal/1-a/{SEGMENT}.zst", pack(b"x" * 1000)[:-1])
    with pytest.raises(Damaged):
        keep_log(place, "1-a", SEGMENT, b"x" * 1000)


def test_a_life_has_one_id(tmp_path):
    first = source_of(tmp_path, "77")
    assert first == source_of(tmp_path, "77") and first.startswith("77-")
    assert (tmp_path / "lineage").stat().st_mode & 0o777 == 0o600


def test_places_that_are_not_apart_are_refused(tmp_path):
    for one, other in (("a", "a"), ("a", "a/b"), ("a/b", "a")):
        with pytest.raises(Unavailable, match="not apart"):
            check_apart(Folder(tmp_path / one), tmp_path / other, "secrets_dir")
    check_apart(Folder(tmp_path / "a"), tmp_path / "ab", "secrets_dir")


def test_a_journal_is_copied_as_it_grows(tmp_path, place):
    folder = tmp_path / "journal"
    journal = Journal(folder, 65_536)
    journal.begin_segment(b"C" + b"0" * 10)
    index = keep_journal(place, "1-a", folder)
    (first,) = index["segments"].values()
    assert (first["first"], first["last"]) == (1, 1)
    for _ in range(3):
        journal.append(b"R" + b"x" * 100)
    journal.commit()
    journal.append(b"not committed")
    index = keep_journal(place, "1-a", folder)
    (second,) = index["segments"].values()
    assert second["last"] == 4 == journal_end(folder, journal.journal_id)
    copied = unpack("it", place.get(second["name"]))
    (segment,) = copy_journal(folder, journal.journal_id)
    assert segment.content == copied and len(copied) < 1000
    # The shorter copy is gone, and the index is right at every moment: it is replaced when the longer one is there.
    assert [name for name in place.names("journal/") if name.endswith(".zst")] == [second["name"]]
    journal.commit()
    journal.begin_segment(b"C")
    index = keep_journal(place, "1-a", folder)
    assert [s["last"] for s in index["segments"].values()] == [5, 6]
    # What the host deletes stays in the copy.
    segment_one = folder / "00000000000000000001.seg"
    segment_one.unlink()
    assert len(keep_journal(place, "1-a", folder)["segments"]) == 2
    journal.close()


def test_a_handover_says_how_it_went(tmp_path):
    asked = LogHandover(tmp_path / "it", lambda path, mode: path.chmod(mode))
    asked.prepare()
    asked.prepare()
    (folder,) = [tmp_path / "it"]

    def do(name):
        if name.endswith(".history"):
            raise FileMissing
        if name == SEGMENT:
            return b"content"
        raise Unavailable("the place is away")

    asked.answer(f"restore {SEGMENT}", do)
    asked.answer("restore 00000002.history", do)
    asked.answer("restore 000000010000000000000008", do)
    for line in ("restore ../../etc/passwd", "restore", "", f"restore {SEGMENT}/../x"):
        asked.answer(line, do)
    names = {path.name for path in folder.iterdir()} - {"ask", "ask.sh"}
    assert names == {
        f"{SEGMENT}.done",
        f"{SEGMENT}.file",
        "00000002.history.missing",
        "000000010000000000000008.failed",
    }
    assert "the place is away" in (folder / "000000010000000000000008.failed").read_text()


def put_backup(place, source, ended_at, start_wal="000000010000000000000002", settled=0, *, whole=True):
    backup_id = f"{ended_at:%Y%m%dT%H%M%SZ}-00000000"
    prefix = f"base/{source}/{backup_id}"
    put_json(place, f"{prefix}/begun.json", {})
    place.put(f"{prefix}/base.000001.zst", b"x")
    if whole:
        manifest = {
            "format": 1, "backup_id": backup_id, "source": source, "kind": "database", "ended_at": ended_at.isoformat(), "files": [],
            "start_wal": start_wal, "journal": {"journal_id": "j", "settled_seq": settled},
        }  # fmt: skip
        digest = sha256(json.dumps(manifest, sort_keys=True).encode())
        put_json(place, f"{prefix}/{MANIFEST}", {"manifest": manifest, "sha256": digest})
    return backup_id


def test_what_is_old_goes_and_what_a_backup_needs_stays(place):
    ids = [
        put_backup(place, "1-a", NOW - timedelta(days=days), f"00000001000000000000{64 - days:04X}", 100 - days)
        for days in (40, 31, 29, 3)
    ]  # fmt: skip
    # The only one of another database, however old; one that is cut off, and one that may be being made.
    other = put_backup(place, "2-b", NOW - timedelta(days=99))
    cut = put_backup(place, "1-a", NOW - timedelta(days=2), whole=False)
    making = put_backup(place, "1-a", NOW - timedelta(hours=2), whole=False)
    for number in (20, 34, 35, 36, 70):
        place.put(f"wal/1-a/00000001000000000000{number:04X}.zst", b"x")
    place.put("wal/1-a/00000002.history.zst", b"x")
    place.put("wal/3-c/000000010000000000000001.zst", b"x")
    segments = {
        f"{n}.seg": {"name": f"journal/1-a/j/{n}.zst", "first": n, "last": n + 9} for n in (50, 60, 70)
    }
    for one in segments.values():
        place.put(one["name"], b"x")
    put_json(place, "journal/1-a/j/journal.json", {"journal_id": "j", "segments": segments})
    dry = prune(place, 30, NOW, dry_run=True)
    assert len(find_backups(place)) == 7
    gone = prune(place, 30, NOW)
    assert gone == dry
    assert (gone.backups, gone.unfinished) == (ids[:2], [cut])
    assert [b.backup_id for b in find_backups(place)] == [other, *ids[2:], making]
    # The oldest that is left begins in file 35 (0x23), and had settled up to 71.
    assert [name.split("/")[2] for name in place.names("wal/1-a/")] == [
        "000000010000000000000023.zst", "000000010000000000000024.zst", "000000010000000000000046.zst", "00000002.history.zst",
    ]  # fmt: skip
    assert place.names("wal/3-c/"), "its first backup may be being made"
    assert [name for name in place.names("journal/") if name.endswith("zst")] == ["journal/1-a/j/70.zst"]
    assert list(json.loads(place.get("journal/1-a/j/journal.json"))["segments"]) == ["70.seg"]
    assert prune(place, 30, NOW) == ([], [], 0, 0, [other])
    # The newest whole one stays, whatever is asked for.
    prune(place, 0, NOW)
    assert [b.backup_id for b in find_backups(place) if b.manifest] == [other, ids[3]]


@pytest.mark.nightly
def test_a_server_serves_on_while_its_archive_is_away_and_says_so(tmp_path, upstream):
    place = tmp_path / "place"
    with Server(tmp_path / "a", archive_to=place, archive_timeout_s=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber()

        def written():
            """Something is in the log, and the archiver is woken for it."""
            assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
            with server.owner() as owner:
                owner.execute("SELECT pg_switch_wal()")

        written()
        until(lambda: list(place.glob("wal/*/*.zst")), timeout_s=120, what="a file in the archive")
        until(lambda: server.metrics("archive_files")[0] > 0, what="the metric")
        assert server.metrics("archive_behind_seconds") == [0.0]
        place.rename(tmp_path / "elsewhere")
        written()
        until(
            lambda: server.metrics("archive_behind_seconds")[0] > 0,
            timeout_s=120,
            what="the archive to be behind",
        )
        said = json.loads(server.cli("doctor", "--json", check=False).stdout)["checks"]
        (found,) = [one for one in said if one["check"] == "archive"]
        assert found["state"] == "warning" and "nothing could be kept" in found["said"]
        assert "is its disk mounted?" in (server.data_dir / "postgresql.log").read_text()
        assert server.chat(key, {"tokens": 5, "prompt": 11})[0] == 200
        server.usage(subscriber, 3)
        assert server.ready()
        (tmp_path / "elsewhere").rename(place)

        def caught_up():
            with server.owner() as owner:
                owner.execute("SELECT pg_switch_wal()")
            return server.metrics("archive_behind_seconds") == [0.0]

        until(caught_up, 180, what="the archive to catch up")
        names = sorted(path.name for path in place.glob("wal/*/????????????????????????.zst"))
        assert [int(name[16:24], 16) for name in names] == list(
            range(int(names[0][16:24], 16), int(names[0][16:24], 16) + len(names))
        ), "no file is missing"
        # No role of PostgreSQL's is asked for that is not there, whatever command runs.
        assert 'role "postgres" does not exist' not in (server.data_dir / "postgresql.log").read_text()
        # A file that the place has already, and that is not this one, is never written over.
        with server.owner() as owner:
            (current,) = owner.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
        (wal,) = place.glob("wal/*")
        (wal / f"{current}.zst").write_bytes(pack(b"of another cluster"))
        written()
        until(lambda: server.metrics("archive_behind_seconds")[0] > 0, timeout_s=120, what="the refusal")
        assert unpack("it", (wal / f"{current}.zst").read_bytes()) == b"of another cluster"
        assert "nothing is overwritten" in (server.data_dir / "postgresql.log").read_text()
        server.usage(subscriber, 4)
        assert server.findings() == []
