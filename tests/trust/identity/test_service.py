"""Staff: tokens that end and rotate, names that can't be taken for another's, two persons for money, peppers of several hosts."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Conflict, Invalid, Unavailable, uuid7
from tokenworks.trust import (
    ApprovalNeeded,
    ApprovalNotFound,
    Approvals,
    HostSecrets,
    Identity,
    Keys,
    NotAllowed,
    Peppers,
    StaffExists,
    StaffNotFound,
    all_peppers,
    check_first_pepper,
    check_peppers,
    choose_issuing,
    ensure_pepper,
    key_mac,
    load_peppers,
    load_vault_secrets,
    new_pepper,
    retire_pepper,
    skeleton,
    use_pepper,
)

YUAN = 10**9
PHONE = "+8613800000001"


# Tokens.


def test_a_token_ends_and_is_rotated_with_an_overlap(services, clock):
    identity = services.identity
    first = identity.add_staff("Ann", "finance")
    assert identity.staff_of(first, "203.0.113.1").name == "Ann"
    second = identity.rotate_staff("Ann", timedelta(hours=2))
    assert first != second and identity.staff_of(first) and identity.staff_of(second)
    clock.move(timedelta(hours=2))
    assert identity.staff_of(first) is None
    assert identity.staff_of(second, "203.0.113.1").role == "finance"
    (row,) = identity.staff()
    assert row["seen_address"] == "203.0.113.1" and row["token_expires_at"] > clock.now()
    clock.move(timedelta(days=90))
    assert identity.staff_of(second) is None
    third = identity.rotate_staff("Ann", timedelta(0))
    assert identity.staff_of(third)
    identity.revoke_staff("Ann")
    assert identity.staff_of(third) is None
    for name in ("Ann", "Nobody"):
        with pytest.raises(StaffNotFound):
            identity.rotate_staff(name)
    with pytest.raises(Invalid, match="overlap"):
        identity.rotate_staff("Ann", timedelta(days=31))


def test_a_token_that_is_rotated_twice_keeps_the_ends_that_were_said(services, clock):
    identity = services.identity
    first = identity.add_staff("Ann", "finance")
    second = identity.rotate_staff("Ann", timedelta(hours=2))
    clock.move(timedelta(hours=1))
    # A longer overlap makes nothing live longer than was said; within both overlaps all three are good.
    third = identity.rotate_staff("Ann", timedelta(hours=24))
    assert all(map(identity.staff_of, (first, second, third)))
    clock.move(timedelta(minutes=59, seconds=59))
    assert identity.staff_of(first)
    clock.move(timedelta(seconds=1))
    assert [identity.staff_of(text) is not None for text in (first, second, third)] == [False, True, True]
    clock.move(timedelta(hours=23))
    assert [identity.staff_of(text) is not None for text in (first, second, third)] == [False, False, True]
    # A leak: all that were there end at once.
    fourth = identity.rotate_staff("Ann", timedelta(0))
    assert [identity.staff_of(text) is not None for text in (third, fourth)] == [False, True]


def test_how_long_a_token_is_good_is_a_setting(services, clock):
    identity = Identity(services.connection, {1: bytes(32)}, clock, services.vault, timedelta(days=1))
    text = identity.add_staff("Ann", "auditor")
    clock.move(timedelta(hours=23))
    assert identity.staff_of(text)
    clock.move(timedelta(hours=1))
    assert identity.staff_of(text) is None


# Names.

ALIKE = [
    ("Ann", "ann"), ("Ann", "Аnn"), ("Ann", "Ａｎｎ"), ("Ann", "A n n"), ("Ann", "Änn"), ("Ivan", "lvan"), ("Ivan", "1van"),
    ("Ivan", "Іvan"), ("Oscar", "0scar"), ("Oscar", "Οscar"), ("scope", "ѕсоре"), ("Marn", "Mam"), ("vvang", "wang"),
    ("二", "ニ"), ("口天", "ロ天"), ("ﬁnn", "finn"), ("𝐀𝐧𝐧", "Ann"), ("Ann.Li", "Ann Li"), ("Straße", "strasse"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_a_name_that_looks_like_another_ones_is_refused(services, one, other):
    services.identity.add_staff(one, "operator")
    with pytest.raises(StaffExists):
        services.identity.add_staff(other, "finance")
    # Also when the first one is gone: the trail names both.
    services.identity.revoke_staff(one)
    with pytest.raises(StaffExists):
        services.identity.add_staff(other, "finance")


def test_other_names_are_others(services):
    for name in ("Ann", "Anna", "Bo", "王伟", "王芳", "李娜", "Ольга", "María"):
        services.identity.add_staff(name, "operator")
    for name in ("cli:root", "CLI:x", "port:broadband", "member:1", "...", ""):
        with pytest.raises(Invalid):
            services.identity.add_staff(name, "operator")


@given(st.text(max_size=30))
def test_a_skeleton_is_its_own_and_of_whatever_case(text):
    assert skeleton(skeleton(text)) == skeleton(text)
    assert skeleton(text.casefold()) == skeleton(text)


@pytest.mark.parametrize(
    ("one", "other"), [("bo", "bø"), ("david", "đaviɖ"), ("lee", "łee"), ("ann", "aɲɴ"), ("hal", "ħal")]
)
def test_letters_without_a_decomposition_look_like_their_base(one, other):
    """Read off their names in the Unicode Character Database: no table has to have each."""
    assert skeleton(one) == skeleton(other)
    # A letter that is another one stays another one.
    assert len({skeleton(name) for name in ("ann", "bo", "ольга", "王伟", "ðor", "þor")}) == 6


# Two persons.


@pytest.fixture
def approvals(services):
    return Approvals(services.connection, services.clock, 1000 * YUAN)


def wanted(approvals, actor="ann", amount=2000 * YUAN, key="k1", ref="o1"):
    with pytest.raises(ApprovalNeeded) as caught:
        approvals.check(actor, "refund", ref, amount, key)
    approvals.ask(caught.value.wanted)
    return caught.value.wanted.approval_id


def test_money_above_the_limit_takes_two_persons(approvals):
    approvals.check("ann", "refund", "o1", 1000 * YUAN, "k1")
    asked = wanted(approvals)
    assert wanted(approvals) == asked, "asking again is the same asking"
    for same in ("ann", "cli:ann", "Аnn", "A n n"):
        with pytest.raises(NotAllowed):
            approvals.decide(asked, same, approve=True)
    approvals.decide(asked, "bo", approve=True)
    with pytest.raises(ApprovalNotFound):
        approvals.decide(asked, "bo", approve=True)
    # For what was asked, by whom it was asked: not for more, not for another, not by another.
    wanted(approvals, amount=2001 * YUAN)
    wanted(approvals, ref="o2")
    wanted(approvals, actor="cy")
    approvals.check("ann", "refund", "o1", 2000 * YUAN, "k1")
    approvals.check("ann", "refund", "o1", 2000 * YUAN, "k1")  # the same again is the same thing
    wanted(approvals, key="k2")


def test_without_a_key_an_approval_is_good_once(approvals):
    asked = wanted(approvals, key=None)
    approvals.decide(asked, "bo", approve=True)
    approvals.check("ann", "refund", "o1", 2000 * YUAN)
    assert wanted(approvals, key=None) != asked


def test_what_is_refused_or_old_is_asked_for_again(approvals, clock):
    asked = wanted(approvals)
    approvals.decide(asked, "ann", approve=False)  # whoever asked may take it back
    second = wanted(approvals)
    assert second != asked
    clock.move(timedelta(days=7))
    with pytest.raises(ApprovalNotFound):
        approvals.decide(second, "bo", approve=True)
    third = wanted(approvals)
    approvals.decide(third, "bo", approve=True)
    clock.move(timedelta(days=7))
    assert wanted(approvals) not in {asked, second, third}


# Peppers.


@pytest.fixture
def hosts(tmp_path):
    """Two hosts' secrets."""
    for name in ("a", "b"):
        ensure_pepper(tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def checked(services, secrets):
    peppers = load_peppers(secrets)
    check_peppers(services.connection, peppers, secrets, services.clock.now())
    return peppers


def copy(source, target):
    for path in source.glob("pepper-*"):
        (target / path.name).write_bytes(path.read_bytes())
        (target / path.name).chmod(0o600)


def test_a_host_with_another_pepper_is_refused_and_told_what_to_do(services, hosts):
    first, second = hosts
    checked(services, first)
    with pytest.raises(Unavailable, match=r"is not the pepper of this works.*Copy pepper-") as caught:
        checked(services, second)
    assert load_peppers(second)[1].hex() not in str(caught.value)
    copy(first, second)
    assert checked(services, second).issuing == 1


def test_a_host_without_any_is_not_given_one_of_its_own(services, hosts, tmp_path):
    check_first_pepper(services.connection, tmp_path / "new")
    checked(services, hosts[0])
    with pytest.raises(Unavailable, match="copy pepper-"):
        check_first_pepper(services.connection, tmp_path / "new")
    check_first_pepper(services.connection, hosts[0])


def test_a_rotation_keeps_keys_sessions_staff_tokens_and_codes(services, hosts, clock, session_dir):
    first, second = hosts
    vault_secrets = load_vault_secrets(session_dir / "seed" / "secrets")
    copy(first, second)
    peppers = checked(services, first)

    def rooms(peppers):
        settings = load_settings({"data_dir": str(first)}).settings
        return make_works(settings, services.connection, clock, peppers, vault_secrets)

    before = rooms(peppers)
    one = before.subscriptions.register(PHONE)
    member = before.subscriptions.owner_of(one)
    session, _ = before.identity.open_session(one.subscriber_id, member)
    token = before.identity.add_staff("Ann", "operator")
    _, key = before.keys.issue(account_id=one.account_id, member_id=member, name="old")
    asked = before.identity.request_code(PHONE, "2001:db8::1")

    assert new_pepper(services.connection, first, clock.now()) == 2
    # Announced, and used by nobody yet: a host without it still knows all that is made, and may be started anew.
    assert checked(services, second).issuing == 1
    without = HostSecrets(uuid7(), "b", clock.now(), reports=True, peppers=(1,), issues_under=1)
    with pytest.raises(Conflict, match=r"pepper-2 is not loaded on b \(heard of at .*--force"):
        use_pepper(services.connection, 2, clock.now(), [without])
    copy(first, second)
    peppers = checked(services, second)
    assert peppers.issuing == 1 and set(peppers) == {1, 2}
    use_pepper(services.connection, 2, clock.now(), [without._replace(peppers=(1, 2))])
    (second / "pepper-2").unlink()
    with pytest.raises(Unavailable, match=r"pepper-2 is not here.*Copy it"):
        checked(services, second)
    (second / "pepper-2").write_bytes(b"")
    with pytest.raises(Unavailable, match=r"pepper-2 can be read by others|pepper-2 is empty"):
        checked(services, second)
    lacking = load_peppers(second)
    choose_issuing(services.connection, lacking)
    assert (lacking.issuing, lacking.lacking) == (1, (2,))
    with pytest.raises(Unavailable, match="lacks pepper-2"):
        rooms(lacking).identity.session("tws_" + "x" * 43)
    copy(first, second)
    choose_issuing(services.connection, peppers)
    assert peppers.issuing == 2
    after = rooms(peppers)
    assert after.identity.session(session)[1] == one.subscriber_id
    assert after.identity.staff_of(token).name == "Ann"
    assert after.keys.find([key_mac(peppers[version], key) for version in peppers])
    after.identity.check_code(PHONE, asked.code, asked.text)
    new_session, _ = after.identity.open_session(one.subscriber_id, member)
    new_id, _ = after.keys.issue(account_id=one.account_id, member_id=member, name="new")
    versions = services.connection.execute("SELECT pepper_version FROM api_key ORDER BY key_id").fetchall()
    assert versions == [(1,), (2,)]
    # A limit counts what was asked for under either.
    for _ in range(4):
        clock.move(timedelta(minutes=2))
        after.identity.request_code(PHONE, "2001:db8::1")
    with pytest.raises(Exception, match="try again"):
        after.identity.request_code(PHONE, "2001:db8::1")
    # Nothing that is live is lost by a retirement.
    with pytest.raises(Conflict, match=r"1 key\(s\), 1 session\(s\), 1 staff token\(s\)"):
        retire_pepper(services.connection, 1, clock.now())
    with pytest.raises(Conflict, match="is used"):
        retire_pepper(services.connection, 2, clock.now())
    with pytest.raises(Conflict, match="later"):
        use_pepper(services.connection, 1, clock.now())
    for row in services.connection.execute("SELECT key_id FROM api_key WHERE pepper_version = 1").fetchall():
        after.keys.revoke(row[0])
    after.identity.end_session(after.identity.session(session)[0])
    after.identity.rotate_staff("Ann", timedelta(0))
    with pytest.raises(Conflict, match="still made under pepper 1 on b"):
        retire_pepper(services.connection, 1, clock.now(), [without])
    retire_pepper(services.connection, 1, clock.now(), [without._replace(issues_under=2)])
    (second / "pepper-1").unlink()
    alone = rooms(checked(services, second))
    assert alone.identity.session(new_session)
    assert {row.version for row in all_peppers(services.connection)} == {1, 2} and new_id


def test_a_file_that_was_not_announced_is_no_pepper_of_the_works(services, hosts, clock):
    first, second = hosts
    checked(services, first)
    copy(first, second)
    (second / "pepper-2").write_bytes(b"x" * 32)
    (second / "pepper-2").chmod(0o600)
    assert checked(services, second).issuing == 1
    assert [row.version for row in all_peppers(services.connection)] == [1]
    assert checked(services, first).lacking == ()
    with pytest.raises(Invalid, match="no pepper 2"):
        use_pepper(services.connection, 2, clock.now())
    # The next one is of a number that no file has.
    assert new_pepper(services.connection, second, clock.now()) == 3


def test_keys_are_issued_under_the_one_that_is_used(services):
    peppers = Peppers({1: b"a" * 32, 2: b"b" * 32})
    peppers.issuing = 1
    one = services.subscriptions.register(PHONE)
    _, text = Keys(services.connection, peppers, services.clock, "dev").issue(
        account_id=one.account_id, member_id=services.subscriptions.owner_of(one), name="x"
    )
    assert services.keys.find([key_mac(b"a" * 32, text)])
