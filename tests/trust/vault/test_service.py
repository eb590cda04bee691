"""Personal texts: bound to their place, found by keyed hashes, gone with their key."""

import uuid

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.kernel import Invalid, Unavailable, uuid7
from tokenworks.trust import (
    NO_PERSON,
    PersonVault,
    VaultSecrets,
    add_wrapping_key,
    ensure_pepper,
    load_vault_secrets,
)
from tokenworks.trust.vault.lookup import (
    NAME_HASHES_MAX,
    Lookup,
    has_part,
    name_parts,
    normal_id_number,
    search_parts,
)
from tokenworks.trust.vault.service import PersonKey


@pytest.fixture
def secrets(tmp_path):
    ensure_pepper(tmp_path)
    return load_vault_secrets(tmp_path)


@pytest.fixture
def vault(services, secrets):
    return PersonVault(services.connection, secrets)


@given(text=st.text(max_size=50), other=st.sampled_from(["place", "row", "person", "byte"]))
def test_a_ciphertext_opens_where_it_was_sealed_and_nowhere_else(text, other):
    person, row = uuid.uuid4(), uuid.uuid4()
    secret = bytes(range(32))
    key = PersonKey(person, secret)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    sealed = key.seal("subscriber.name", row, text)
    assert key.open("subscriber.name", row, sealed) == text
    assert key.seal("subscriber.name", row, text) != sealed
    place, at, whose = "subscriber.name", row, key
    if other == "place":
        place = "subscriber.phone"
    elif other == "row":
        at = uuid.uuid4()
    elif other == "person":
        # Another person with the very same key bytes: the person is bound, too.
        whose = PersonKey(uuid.uuid4(), secret)
    else:
        sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(Unavailable, match="can't be decrypted"):
        whose.open(place, at, sealed)


def test_a_key_is_wrapped_and_destroyed(vault):
    person, row = uuid7(), uuid7()
    key = vault.add(person)
    sealed = key.seal("x.y", row, "a name")
    assert vault.open(person, "x.y", row, sealed) == "a name"
    wrapped = vault.connection.execute("SELECT wrapped FROM person_key WHERE person_id = %s", (person,))
    assert len(bytes(wrapped.fetchone()[0])) == 12 + 32 + 16
    assert vault.destroy([person]) == 1
    assert vault.destroy([person]) == 0
    assert vault.key(person) is None and vault.open(person, "x.y", row, sealed) is None
    # It does not come back under the same id.
    assert vault.ensure(person) is None
    with pytest.raises(AssertionError):
        vault.add(person)


def test_a_wrapped_key_belongs_to_its_person(vault):
    one, two = uuid7(), uuid7()
    vault.add(one)
    vault.add(two)
    vault.connection.execute(
        "UPDATE person_key SET wrapped = (SELECT wrapped FROM person_key WHERE person_id = %s) WHERE person_id = %s",
        (one, two),
    )
    with pytest.raises(Unavailable, match="can't be unwrapped"):
        vault.key(two)


def test_a_database_without_the_secrets_opens_nothing(vault, services):
    person, row = uuid7(), uuid7()
    sealed = vault.add(person).seal("x.y", row, "a name")
    other = PersonVault(services.connection, VaultSecrets({1: b"o" * 32}, b"o" * 32))
    with pytest.raises(Unavailable, match="can't be unwrapped"):
        other.open(person, "x.y", row, sealed)


def test_a_host_with_other_secrets_is_refused(vault, services):
    vault.check_secrets()
    known = "SELECT count(*) FROM vault_secret"
    assert services.connection.execute(known).fetchone() == (0,), "nobody is there yet: any secrets will do"
    vault.add(uuid7())
    secrets = vault._secrets
    # Before the fingerprints are written, what is there says whose secrets are right.
    for other in (VaultSecrets(secrets.wrapping, b"o" * 32), VaultSecrets({1: b"o" * 32}, secrets.lookup)):
        with pytest.raises(Unavailable, match="can't be unwrapped"):
            PersonVault(services.connection, other).check_secrets()
    vault.check_secrets()
    vault.check_secrets()
    assert services.connection.execute(known).fetchone() == (2,)
    with pytest.raises(Unavailable, match="person-lookup"):
        PersonVault(services.connection, VaultSecrets(secrets.wrapping, b"o" * 32)).check_secrets()
    with pytest.raises(Unavailable, match="person-wrap-1"):
        PersonVault(services.connection, VaultSecrets({1: b"o" * 32}, secrets.lookup)).check_secrets()
    with pytest.raises(Unavailable, match="no person-wrap-1"):
        PersonVault(services.connection, VaultSecrets({2: b"o" * 32}, secrets.lookup)).check_secrets()


def test_keys_are_wrapped_again(services, tmp_path):
    ensure_pepper(tmp_path)
    old = PersonVault(services.connection, load_vault_secrets(tmp_path))
    person, row = uuid7(), uuid7()
    sealed = old.add(person).seal("x.y", row, "a name")
    assert add_wrapping_key(tmp_path) == 2
    both = PersonVault(services.connection, load_vault_secrets(tmp_path))
    assert both.open(person, "x.y", row, sealed) == "a name"
    assert both.older() == both.rewrap() == 1
    assert both.rewrap() == 0
    (tmp_path / "person-wrap-1").unlink()
    new = PersonVault(services.connection, load_vault_secrets(tmp_path))
    assert new.open(person, "x.y", row, sealed) == "a name"
    with pytest.raises(Unavailable, match="no person-wrap-2"):
        old.key(person)


def test_a_new_wrapping_key_is_used_from_the_rewrap_on(services, tmp_path):
    """Hosts get the file one after the other: what one makes meanwhile, those that have it not yet can read."""
    ensure_pepper(tmp_path)
    old = PersonVault(services.connection, load_vault_secrets(tmp_path))
    first, second, third, fourth = (uuid7() for _ in range(4))
    old.add(first)
    add_wrapping_key(tmp_path)
    new = PersonVault(services.connection, load_vault_secrets(tmp_path))
    new.add(second)
    new.add_many([third])
    assert set(old.keys([first, second, third])) == {first, second, third}
    while new.rewrap():
        pass
    new.add(fourth)
    versions = services.connection.execute("SELECT DISTINCT wrap_version FROM person_key").fetchall()
    assert versions == [(2,)] and new.older() == 0


def test_two_hosts_with_secrets_of_their_own_do_not_both_write(services, vault):
    """Both were set up before there was anybody, so that no fingerprint told them apart at their start."""
    other = PersonVault(services.connection, VaultSecrets({1: b"o" * 32}, b"o" * 32))
    vault.check_secrets()
    other.check_secrets()
    one, two = uuid7(), uuid7()
    vault.add(one)
    for write in (lambda: other.add(two), lambda: other.add_many([two]), lambda: other.ensure(two)):
        with pytest.raises(Unavailable, match="other secrets"):
            write()
    assert vault.key(one) is not None and vault.key(two) is None


def test_secrets_are_files_that_nobody_else_reads(tmp_path):
    with pytest.raises(Unavailable, match="tokenworks init"):
        load_vault_secrets(tmp_path)
    ensure_pepper(tmp_path)
    first = load_vault_secrets(tmp_path)
    ensure_pepper(tmp_path)
    assert load_vault_secrets(tmp_path) == first
    assert "wrapping" not in repr(first)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("person-*")} == {0o600}
    (tmp_path / "person-lookup").chmod(0o640)
    with pytest.raises(Unavailable, match="read by others"):
        load_vault_secrets(tmp_path)
    (tmp_path / "person-lookup").chmod(0o600)
    (tmp_path / "person-lookup").write_bytes(b"short")
    with pytest.raises(Unavailable, match="32 bytes"):
        load_vault_secrets(tmp_path)


def test_two_make_the_key_of_nobody_at_once(vault, database_url):
    """The installation's own key is made at the first need; whoever is second takes the first one's."""
    with psycopg.connect(database_url, autocommit=True) as other:
        first = vault.ensure(NO_PERSON)
        second = PersonVault(other, vault._secrets).ensure(NO_PERSON)
        row = uuid7()
        assert second.open("x.y", row, first.seal("x.y", row, "text")) == "text"


NAMES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Z"]), min_size=1, max_size=100)


@given(name=NAMES)
def test_a_name_has_bounded_hashes_and_is_found_by_each_part(name):
    parts = name_parts(name)
    assert len(parts) <= NAME_HASHES_MAX
    assert set(map(Lookup(b"k" * 32).hash, ["name-part"] * len(parts), parts)) == set(
        Lookup(b"k" * 32).name(name)
    )
    for part in parts:
        assert has_part(name, part), (name, part)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Zhang Xiaoming", "zhang", True),
        ("Zhang Xiaoming", "XIAO", True),
        ("Zhang Xiaoming", "xiao zha", True),
        ("Zhang Xiaoming", "ming", False),
        ("Zhang Xiaoming", "zhang li", False),
        ("Alexandrina Featherstonehaugh", "featherstonehaugh", True),
        ("Alexandrina Featherstonehaugh", "featherstonehaw", False),
        ("张小明", "张", True),
        ("张小明", "小明", True),
        ("张小明", "张明", False),
        ("欧阳修文 Ltd.", "修文", True),
        ("Ｆｕｌｌ Width", "full", True),
        ("Straße", "strasse", True),
    ],
)
def test_names_are_found_by_part(name, text, found):
    lookup = Lookup(b"k" * 32)
    assert has_part(name, text) is found
    if found:
        assert set(lookup.search_hashes(text)) <= set(lookup.name(name))
    assert search_parts("x") == [] and search_parts("张") == ["张"]


def test_an_identity_number_is_one_whatever_it_is_typed_like():
    assert normal_id_number("11010519491231002x") == normal_id_number(" 110105-19491231-002Ｘ ")
    for text in ("", "12345", "1" * 33, "11010519491231002X; DROP"):
        with pytest.raises(Invalid):
            normal_id_number(text)


def test_hashes_of_two_kinds_differ():
    lookup = Lookup(b"k" * 32)
    assert (
        len(
            {
                lookup.hash(kind, "0001")
                for kind in ("phone", "tail", "name-part", "name", "broadband", "identity")
            }
        )
        == 6
    )
    assert lookup.tail("+8613800000001") == lookup.tail("0001")
    assert lookup.phone("+8613800000001") != Lookup(b"l" * 32).phone("+8613800000001")
