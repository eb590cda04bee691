"""Places of backups: a folder and an S3 bucket say the same; objects are whole or not there; nothing is written over."""

import os
import resource

import pytest

from tests.support.s3 import ACCESS_KEY, REGION, S3, SECRET_KEY
from tokenworks.app.database import s3 as client
from tokenworks.app.database.places import (
    MARK,
    Damaged,
    Exists,
    Folder,
    PlaceAway,
    check_prepared,
    open_place,
    pack,
    prepare,
    unpack,
)
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, NotFound, Unavailable


@pytest.fixture
def s3(monkeypatch):
    monkeypatch.setattr(client, "WAIT_S", 0.001)
    with S3() as stand_in:
        yield stand_in


@pytest.fixture
def settings(tmp_path, s3):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    file = secrets / "s3-credentials"
    file.write_text(f"access_key_id = {ACCESS_KEY}\nsecret_access_key = {SECRET_KEY}\n")
    file.chmod(0o600)
    said = {"data_dir": str(tmp_path), "s3_endpoint": s3.endpoint, "s3_region": REGION, "s3_path_style": True}
    return load_settings(said, {}).settings


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, settings):
    return open_place(str(tmp_path / "place") if request.param == "folder" else "s3://works/a b/c", settings)


def test_an_object_is_kept_read_listed_and_deleted(place):
    prepare(place)
    prepare(place)
    check_prepared(place)
    names = [f"base/x-1/20261128T000000Z-0000000{n}/base.{n:06d}.zst" for n in range(7)]
    for name in names:
        place.put(name, name.encode() * 100, new=True)
    place.put("wal/x-1/000000010000000000000001.zst", b"")
    assert place.get(names[3]) == names[3].encode() * 100
    assert place.get("wal/x-1/000000010000000000000001.zst") == b""
    assert place.names("base/") == names
    assert place.names("base/x-1/20261128T000000Z-00000002/") == [names[2]]
    assert place.names("nothing/") == []
    place.put(names[0], b"another")
    assert place.get(names[0]) == b"another"
    with pytest.raises(Exists):
        place.put(names[0], b"a third", new=True)
    assert place.get(names[0]) == b"another"
    for name in names:
        place.delete(name)
        place.delete(name)
    assert place.names("") == [MARK, "wal/x-1/000000010000000000000001.zst"]
    with pytest.raises(NotFound):
        place.get(names[0])


def test_a_place_without_its_mark_is_a_disk_that_is_not_mounted(place):
    with pytest.raises(PlaceAway, match="mounted"):
        check_prepared(place)


def test_a_folder_is_its_owners_and_has_no_half_file(tmp_path):
    folder = Folder(tmp_path / "place")
    folder.make()
    folder.put("a/b", b"x")
    assert (tmp_path / "place/a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "place/a/b").stat().st_mode & 0o777 == 0o600
    # What a writer left that was killed is no object.
    (tmp_path / "place/a/.c.123.new").write_bytes(b"half")
    assert folder.names("") == ["a/b"]
    assert sorted(os.listdir(tmp_path / "place/a")) == [".c.123.new", "b"]


def test_a_folder_that_takes_nothing_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(PlaceAway, match="can't be written"):
        Folder(tmp_path / "file").put("a", b"x")
    with pytest.raises(PlaceAway, match="can't be read"):
        Folder(tmp_path / "missing").names("")
    # A disk that went away in the middle of it: nothing is written where it was mounted.
    with pytest.raises(PlaceAway, match="can't be written"):
        Folder(tmp_path / "missing").put("wal/x/y", b"x", new=True)
    assert not (tmp_path / "missing").exists()


def test_a_full_disk_keeps_nothing_half(tmp_path):
    """As of a disk without room: a file ends at 100 kB here."""
    folder = Folder(tmp_path / "place")
    folder.make()
    folder.put("a", b"whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(PlaceAway, match="can't be written"):
            folder.put("a", b"x" * 200_000)
        with pytest.raises(PlaceAway, match="can't be written"):
            folder.put("b", b"x" * 200_000, new=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert folder.get("a") == b"whole" and os.listdir(tmp_path / "place") == ["a"]


def test_an_answer_that_is_cut_is_asked_for_again(settings, s3):
    place = open_place("s3://works/p", settings)
    place.put("a", b"x" * 1000)
    s3.cut = 2
    assert place.get("a") == b"x" * 1000
    assert s3.cut == 0


def test_what_is_damaged_is_refused_by_name():
    packed = pack(b"x" * 100_000)
    assert unpack("it", packed) == b"x" * 100_000
    for at in (0, 4, len(packed) // 2, len(packed) - 1):
        wrong = bytearray(packed)
        wrong[at] ^= 1
        with pytest.raises(Damaged, match="it is damaged"):
            unpack("it", bytes(wrong))
    for wrong in (b"", packed[:-1], packed + b"\0", packed + packed):
        with pytest.raises(Damaged, match="it is damaged"):
            unpack("it", wrong)
    with pytest.raises(Damaged, match="it is damaged"):
        unpack("it", packed, 99_999)


def test_a_server_that_is_slow_is_asked_again_and_one_that_is_away_is_named(settings, s3):
    place = open_place("s3://works/p", settings)
    s3.fail = [503, 500, 429]
    place.put("a", b"x")
    assert place.get("a") == b"x"
    s3.fail = [503] * client.TRIES
    with pytest.raises(PlaceAway, match=r"s3://works/p does not answer \(5 tries\): the server answers 503"):
        place.get("a")
    s3.away = True
    with pytest.raises(PlaceAway, match="does not answer"):
        place.put("a", b"y")
    s3.away = False
    assert place.get("a") == b"x"


def test_a_refusal_is_told_at_once_without_a_key(settings, s3, monkeypatch):
    wrong = settings.model_copy(update={"s3_region": "us-east-1"})
    with pytest.raises(
        PlaceAway, match=r"the server answers 403 \(AuthorizationHeaderMalformed\)"
    ) as refused:
        open_place("s3://works/p", wrong).get("a")
    assert len(s3.requests) == 1 and SECRET_KEY not in str(refused.value)
    with pytest.raises(PlaceAway, match="NoSuchBucket"):
        open_place("s3://other-works/p", settings).get("a")
    file = settings.secrets / "s3-credentials"
    file.write_text(f"access_key_id = {ACCESS_KEY}\nsecret_access_key = not-it\n")
    with pytest.raises(PlaceAway, match="SignatureDoesNotMatch"):
        open_place("s3://works/p", settings).put("a", b"x")
    file.chmod(0o644)
    with pytest.raises(Unavailable, match="can be read by others"):
        open_place("s3://works/p", settings)
    file.unlink()
    with pytest.raises(Unavailable, match="no credentials for S3"):
        open_place("s3://works/p", settings)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    open_place("s3://works/p", settings).put("a", b"x")


def test_a_bucket_may_be_in_the_hosts_name(settings, s3, monkeypatch):
    """What a resolver would say of works.127.0.0.1 is said here."""
    s3.host_style = True
    place = open_place("s3://works", settings.model_copy(update={"s3_path_style": False}))
    assert place._host == "works.127.0.0.1"
    import http.client
    import socket

    def near(self):
        self.sock = socket.create_connection(("127.0.0.1", self.port), 10)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", near)
    place.put("a/b", b"x")
    assert place.names("a/") == ["a/b"] and s3.objects == {"a/b": b"x"}


def test_a_place_is_a_folder_or_a_bucket(settings):
    for named in ("ftp://host/folder", "s3://"):
        with pytest.raises(Invalid):
            open_place(named, settings)
