"""The files of `secrets_dir`: what is whole is read, what is not is said with what to do, what is none of ours is in nobody's way."""

import os

import pytest

from tokenworks.kernel import Unavailable
from tokenworks.trust import (
    ensure_pepper,
    load_peppers,
    load_vault_secrets,
    make_secret,
    strays,
    versions_of,
)

KEY = bytes(range(32))


@pytest.fixture
def secrets(tmp_path):
    ensure_pepper(tmp_path)
    return tmp_path


def put(folder, name, content=KEY, mode=0o600):
    path = folder / name
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pepper-", "is not read: secrets are named"),
        ("pepper-x", "is not read: secrets are named"),
        ("pepper-01", "is not read: secrets are named"),
        ("pepper-0", "is not read: secrets are named"),
        ("pepper-1000", "is not read: secrets are named"),
        ("pepper-٢", "is not read: secrets are named"),
        ("Pepper-2", "is not read: secrets are named"),
        ("person-wrap-x", "is not read: secrets are named"),
        ("pepper-1~", "is a leftover of a program"),
        ("pepper-2.bak", "is a leftover of a program"),
        (".pepper-1.swp", "is a leftover of a program"),
        (".DS_Store", "is a leftover of a program"),
        ("webhook-secret.new", "is a leftover of a program"),
        ("vendor", "is named by no deployment"),
    ],
)
def test_what_only_looks_like_a_secret_is_named_and_in_nobodys_way(secrets, name, said):
    before = load_peppers(secrets), load_vault_secrets(secrets).wrapping
    assert list(strays(secrets)) == []
    path = put(secrets, name)
    assert (load_peppers(secrets), load_vault_secrets(secrets).wrapping) == before
    ((found, words),) = strays(secrets)
    assert found == path and said in words
    assert list(strays(secrets, {"vendor"})) == ([] if name == "vendor" else [(found, words)])


def test_folders_are_named(secrets):
    (secrets / "old").mkdir()
    (secrets / "pepper-2").mkdir()
    assert [(path.name, "is a folder" in said) for path, said in strays(secrets)] == [
        ("old", True),
        ("pepper-2", True),
    ]
    assert "pepper-2 is a folder, and a secret is a file: move" in load_peppers(secrets).flaws[2]


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"", 0o600, "is empty, and a pepper is 32 bytes: restore it"),
        (KEY[:-1], 0o600, "has 31 bytes, and a pepper is 32 bytes: restore it"),
        (KEY + b"\n\n", 0o600, "has 34 bytes"),
        (KEY, 0o640, "can be read by others: chmod 600 it"),
    ],
)
def test_a_secret_that_is_not_whole_or_not_private_is_refused_with_what_to_do(secrets, content, mode, said):
    put(secrets, "pepper-2", content, mode)
    put(secrets, "person-wrap-2", content, mode)
    # Where nothing needs it, as one that is being copied, it is in nobody's way.
    peppers, vault = load_peppers(secrets), load_vault_secrets(secrets)
    assert set(peppers) == set(vault.wrapping) == {1}
    assert f"pepper-2 {said}" in peppers.flaws[2]
    assert f"person-wrap-2 {said.replace('a pepper', 'a key')}" in vault.flaws[2]
    (secrets / "pepper-1").unlink()
    (secrets / "person-wrap-1").unlink()
    with pytest.raises(Unavailable, match=f"pepper-2 {said}"):
        load_peppers(secrets)
    with pytest.raises(Unavailable, match=f"person-wrap-2 {said.replace('a pepper', 'a key')}"):
        load_vault_secrets(secrets)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_end_behind_a_secret_is_left_out(secrets, end):
    put(secrets, "pepper-2", KEY + end)
    assert load_peppers(secrets)[2] == KEY
    put(secrets, "person-wrap-2", KEY + end)
    assert load_vault_secrets(secrets).wrapping[2] == KEY


def test_what_can_not_be_opened_is_refused_with_what_to_do(secrets):
    path = secrets / "pepper-2"
    path.symlink_to(secrets / "nothing")
    assert "pepper-2 is missing" in load_peppers(secrets).flaws[2]
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "is no plain file" in load_peppers(secrets).flaws[2]
    path.unlink()
    path.symlink_to(path)
    assert "can't be read: " in load_peppers(secrets).flaws[2] and "chown" in load_peppers(secrets).flaws[2]


def test_an_editors_copy_alone_is_no_pepper(tmp_path):
    put(tmp_path, "pepper-1~")
    ensure_pepper(tmp_path)
    assert set(versions_of(tmp_path, "pepper-")) == {1}


def test_a_secret_is_there_whole_or_not_at_all(tmp_path):
    make_secret(tmp_path / "pepper-1", 32)
    made = (tmp_path / "pepper-1").read_bytes()
    assert len(made) == 32 and (tmp_path / "pepper-1").stat().st_mode & 0o777 == 0o600
    make_secret(tmp_path / "pepper-1", 32)
    assert (tmp_path / "pepper-1").read_bytes() == made
    assert [path.name for path in tmp_path.iterdir()] == ["pepper-1"]
