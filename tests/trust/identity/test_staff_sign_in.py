"""Sign-ins of staff: by token and code, by the OpenID provider; accounts, roles, the trail."""

from datetime import timedelta
from types import SimpleNamespace

import pyotp
import pytest

from tests.support.openid import ISSUER
from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid, Unavailable
from tokenworks.trust import (
    CodeWrong,
    EnrolmentLinkWrong,
    OidcPerson,
    OidcRefused,
    Origin,
    Peppers,
    SecondFactorMissing,
    SignInRefused,
    StaffExists,
    StaffNotFound,
    StaffSignIn,
    TooManyAttempts,
    checked_email,
)
from tokenworks.trust.identity import staff_store
from tokenworks.trust.identity.second_factor import ATTEMPTS_PER_ACCOUNT, ATTEMPTS_PER_ASKER
from tokenworks.trust.identity.staff_sign_in import FLOW_LIFE

HERE = Origin("staff", "203.0.113.7", "Firefox")
PERSON = OidcPerson(ISSUER, "person-1", "ann@carrier.example", True, frozenset({"tw-finance"}))


@pytest.fixture
def signing(services):
    return services.staff_sign_in


@pytest.fixture
def grouped(services, session_dir):
    """Services whose roles come from groups, and that make accounts."""
    settings = load_settings(
        {
            "data_dir": str(session_dir / "seed"), "staff_oidc_issuer": ISSUER, "staff_oidc_client_id": "x",
            "staff_oidc_roles": "tw-audit=auditor, tw-finance=finance,tw=operators=operator", "staff_oidc_creates": True,
        }
    ).settings  # fmt: skip
    return make_works(settings, services.connection, services.clock).staff_sign_in


@pytest.fixture
def ann(services, signing, clock):
    """Ann with a token, an authenticator and recovery codes."""
    token = services.identity.add_staff("Ann", "finance")
    link = signing.make_link("Ann")
    secret, _ = signing.open_link(link, token, HERE)
    totp = pyotp.TOTP(secret)
    codes = signing.confirm_link(link, token, totp.at(clock.now()), HERE)
    clock.move(timedelta(minutes=2))
    return SimpleNamespace(token=token, codes=codes, now=lambda: totp.at(clock.now()))


def trail(services, action):
    return [row["after"] for row in services.identity.audited()[0] if row["action"] == action]


def live(services, name="Ann"):
    return services.staff_sessions.live(services.staff_sign_in.staff_id_of(name))


def test_a_token_alone_is_enough_only_where_no_code_is_needed(services, signing):
    token = services.identity.add_staff("Bo", "operator")
    opened = signing.by_token(f" {token} ", "", HERE, needs_code=False)
    assert services.staff_sessions.find(opened.text, "staff").method == "token"
    with pytest.raises(SecondFactorMissing):
        signing.by_token(token, "", HERE, needs_code=True)
    assert len(live(services, "Bo")) == 1
    assert trail(services, "staff.sign_in_refused") == [{"why": "no authenticator", "listener": "staff"}]


def test_who_has_an_authenticator_always_needs_it(services, signing, ann, clock):
    for code in ("", "000000" if ann.now() != "000000" else "000001"):
        with pytest.raises(SignInRefused):
            signing.by_token(ann.token, code, HERE, needs_code=False)
    assert live(services) == []
    code = ann.now()
    assert signing.by_token(ann.token, code, HERE, needs_code=True).name == "Ann"
    with pytest.raises(SignInRefused):
        signing.by_token(ann.token, code, HERE, needs_code=True)
    assert signing.by_token(ann.token, ann.codes[0], HERE, needs_code=True)
    assert [session.method for session in live(services)] == ["recovery_code", "totp"]
    assert len(trail(services, "staff.sign_in")) == 2


def test_a_wrong_token_and_a_wrong_code_look_the_same(services, signing, ann):
    said = set()
    for token, code in ((ann.token, "x"), ("twf_wrong", ann.now()), ("", ""), ("tws_x", ""), ("x" * 300, "")):
        with pytest.raises(SignInRefused) as refused:
            signing.by_token(token, code, HERE, needs_code=True)
        said.add(str(refused.value))
    assert len(said) == 1


def test_guesses_of_a_code_are_few_and_lock_out_nobody_without_the_token(services, signing, ann, clock):
    ((few, span), _) = ATTEMPTS_PER_ACCOUNT
    for number in range(40):
        with pytest.raises(SignInRefused):
            signing.by_token("twf_guess", "", Origin("staff", f"198.51.100.{number}"), needs_code=True)
    for number in range(few):
        with pytest.raises(SignInRefused):
            signing.by_token(ann.token, "abc", Origin("staff", f"198.51.100.{number}"), needs_code=True)
    with pytest.raises(TooManyAttempts):
        signing.by_token(ann.token, ann.now(), HERE, needs_code=True)
    assert len(trail(services, "staff.sign_in_refused")) == few
    clock.move(span)
    assert signing.by_token(ann.token, ann.now(), HERE, needs_code=True)


def test_a_stranger_behind_the_same_address_locks_out_nobody(services, signing, ann, clock):
    """An office, or all staff where a proxy reports no addresses."""
    ((crowd, _),) = ATTEMPTS_PER_ASKER
    for _ in range(crowd):
        with pytest.raises(SignInRefused):
            signing.by_token("twf_guess", "", HERE, needs_code=True)
    with pytest.raises(TooManyAttempts):
        signing.by_token("twf_guess", "", HERE, needs_code=True)
    assert signing.by_token(ann.token, ann.now(), HERE, needs_code=True).name == "Ann"
    link = signing.make_link("Ann")
    assert signing.open_link(link, ann.token, HERE)
    services.identity.add_staff("Bo", "operator")
    with pytest.raises(TooManyAttempts):
        signing.open_link(link, "twf_guess", HERE)
    assert services.connection.execute("SELECT count(*) FROM staff_attempt").fetchone() == (crowd,)


def test_who_has_no_authenticator_is_counted_and_does_not_fill_the_trail(services, signing):
    token = services.identity.add_staff("Bo", "operator")
    ((few, _), _) = ATTEMPTS_PER_ACCOUNT
    for _ in range(few):
        with pytest.raises(SecondFactorMissing):
            signing.by_token(token, "", HERE, needs_code=True)
    with pytest.raises(TooManyAttempts):
        signing.by_token(token, "", HERE, needs_code=True)
    assert len(trail(services, "staff.sign_in_refused")) == few


def test_a_token_that_ends_at_once_ends_the_sessions(services, signing, ann, clock):
    """The token was stolen: who has it may be signed in with it."""
    opened = signing.by_token(ann.token, ann.now(), HERE, needs_code=True)
    services.identity.rotate_staff("Ann", timedelta(hours=1))
    assert services.staff_sessions.find(opened.text, "staff")
    services.identity.rotate_staff("Ann", timedelta(0))
    assert services.staff_sessions.find(opened.text, "staff") is None


def test_a_revoked_or_ended_token_signs_nobody_in(services, signing, ann, clock):
    opened = signing.by_token(ann.token, ann.now(), HERE, needs_code=True)
    services.identity.revoke_staff("Ann")
    assert services.staff_sessions.find(opened.text, "staff") is None
    clock.move(timedelta(minutes=2))
    with pytest.raises(SignInRefused):
        signing.by_token(ann.token, ann.now(), HERE, needs_code=True)
    assert signing.account("Ann").revoked_at is not None
    for change in (
        lambda: signing.set_role("Ann", "auditor"),
        lambda: signing.make_link("Ann"),
        lambda: signing.set_email("Ann", "a@b.cd"),
    ):
        with pytest.raises(StaffNotFound):
            change()


def test_a_link_is_worth_nothing_without_the_token_of_its_person(services, signing, clock):
    ann, bo = (services.identity.add_staff(name, "finance") for name in ("Ann", "Bo"))
    link = signing.make_link("Ann")
    for token in (bo, "twf_x", ""):
        with pytest.raises(SignInRefused):
            signing.open_link(link, token, HERE)
        with pytest.raises(SignInRefused):
            signing.confirm_link(link, token, "000000", HERE)
    with pytest.raises(EnrolmentLinkWrong):
        signing.open_link("twl_x", ann, HERE)
    assert not signing.account("Ann").has_authenticator
    secret, uri = signing.open_link(link, ann, HERE)
    assert uri.startswith("otpauth://totp/Tokenworks:Ann?secret=") and secret in uri
    before = signing.by_token(ann, "", HERE, needs_code=False)
    ((few, _), _) = ATTEMPTS_PER_ACCOUNT
    for _ in range(few):
        with pytest.raises(CodeWrong):
            signing.confirm_link(link, ann, "x", HERE)
    with pytest.raises(TooManyAttempts):
        signing.confirm_link(link, ann, pyotp.TOTP(secret).at(clock.now()), HERE)
    clock.move(timedelta(minutes=20))
    signing.confirm_link(link, ann, pyotp.TOTP(secret).at(clock.now()), HERE)
    assert services.staff_sessions.find(before.text, "staff") is None, "a session of one factor ends"


def test_a_role_changes_with_its_sessions_ended(services, signing, ann):
    signing.by_token(ann.token, ann.now(), HERE, needs_code=True)
    assert signing.set_role("Ann", "auditor") == 1
    assert live(services) == [] and services.identity.staff_of(ann.token).role == "auditor"
    with pytest.raises(Invalid):
        signing.set_role("Ann", "owner")


# By the OpenID provider.


def test_a_verified_email_links_an_account_once(services, signing):
    services.identity.add_staff("Ann", "operator")
    with pytest.raises(OidcRefused):
        signing.by_oidc(PERSON, HERE)
    signing.set_email("Ann", "ANN@carrier.example")
    for other in (
        PERSON.__class__(ISSUER, "p", PERSON.email, False, frozenset()),
        PERSON.__class__(ISSUER, "p", None, True, frozenset()),
    ):
        with pytest.raises(OidcRefused):
            signing.by_oidc(other, HERE)
    assert not signing.account("Ann").is_linked
    opened = signing.by_oidc(PERSON, HERE)
    assert services.staff_sessions.find(opened.text, "staff").role == "operator", "no group says otherwise"
    assert signing.account("Ann").is_linked
    # The subject counts from now on: with another email, and not another person with this email.
    assert signing.by_oidc(OidcPerson(ISSUER, "person-1", "anne@carrier.example", False, frozenset()), HERE)
    for issuer, subject in ((ISSUER, "person-2"), ("https://another.example", "person-1")):
        with pytest.raises(OidcRefused):
            signing.by_oidc(OidcPerson(issuer, subject, PERSON.email, True, frozenset()), HERE)
    # Another account there in place of the earlier one, whose sessions end.
    services.staff_sessions.open(signing.staff_id_of("Ann"), "staff", "totp", None, None)
    assert signing.set_email("Ann", "ann@carrier.example") == 2
    assert [session.method for session in live(services)] == ["totp"]
    assert signing.set_email("Ann", "ann@carrier.example") == 0, "an operator who does it twice"
    assert (
        signing.by_oidc(OidcPerson(ISSUER, "person-2", PERSON.email, True, frozenset()), HERE).name == "Ann"
    )


def test_an_account_whose_email_changes_meanwhile_is_not_linked(services, signing, monkeypatch):
    """The person of the earlier email comes back from the provider at the moment of `staff email`."""
    services.identity.add_staff("Ann", "operator")
    signing.set_email("Ann", "ann@carrier.example")
    find = staff_store.find_by_email

    def found_and_then_changed(connection, email):
        row = find(connection, email)
        signing.set_email("Ann", "anna@carrier.example")
        return row

    monkeypatch.setattr(staff_store, "find_by_email", found_and_then_changed)
    with pytest.raises(OidcRefused):
        signing.by_oidc(PERSON, HERE)
    assert not signing.account("Ann").is_linked and live(services) == []


def test_an_email_is_of_one_account(services, signing):
    for name in ("Ann", "Bo"):
        services.identity.add_staff(name, "operator")
    signing.set_email("Ann", "ann@carrier.example")
    with pytest.raises(StaffExists):
        signing.set_email("Bo", "Ann@Carrier.example")
    for text in (
        "ann",
        "@x.y",
        "ann@",
        "ann@localhost",
        "a nn@x.yz",
        "аnn@carrier.example",
        "x" * 250 + "@x.yz",
        "a@b.c\n",
    ):
        with pytest.raises(Invalid):
            checked_email(text)


def test_no_account_is_made_unless_a_rule_says_so(services, signing, grouped):
    with pytest.raises(OidcRefused):
        signing.by_oidc(PERSON, HERE)
    without = OidcPerson(ISSUER, "p", "eve@carrier.example", True, frozenset({"staff", "tw-finance2"}))
    with pytest.raises(OidcRefused):
        grouped.by_oidc(without, HERE)
    unverified = OidcPerson(ISSUER, "p", "eve@carrier.example", False, frozenset({"tw-finance"}))
    with pytest.raises(OidcRefused):
        grouped.by_oidc(unverified, HERE)
    assert services.identity.staff() == []
    made = grouped.by_oidc(PERSON, HERE)
    (row,) = services.identity.staff()
    assert (row["name"], row["role"], row["token_expires_at"]) == ("ann@carrier.example", "finance", None)
    assert made.name == "ann@carrier.example" and trail(services, "staff.add") == [
        {"role": "finance", "by": "oidc"}
    ]


def test_a_name_that_looks_like_anothers_is_not_made(services, grouped):
    services.identity.add_staff("anm@carrier.example".replace("m", "rn").replace("anrn", "ann"), "auditor")
    with pytest.raises(OidcRefused):
        grouped.by_oidc(PERSON, HERE)
    assert len(services.identity.staff()) == 1


def test_groups_give_and_take_the_role_with_each_sign_in(services, grouped):
    first = grouped.by_oidc(PERSON, HERE)
    find = services.staff_sessions.find
    both = OidcPerson(ISSUER, "person-1", None, False, frozenset({"tw-finance", "tw-audit"}))
    second = grouped.by_oidc(both, HERE)
    assert find(first.text, "staff") is None, "a session of the role of before"
    assert find(second.text, "staff").role == "auditor"
    assert [row["after"] for row in services.identity.audited()[0] if row["action"] == "staff.role"] == [
        {"role": "auditor"}
    ]
    with pytest.raises(OidcRefused):
        grouped.by_oidc(OidcPerson(ISSUER, "person-1", None, False, frozenset()), HERE)
    assert find(second.text, "staff") is None, "who has lost the group is signed out"
    operator = OidcPerson(ISSUER, "person-1", None, False, frozenset({"tw=operators"}))
    assert find(grouped.by_oidc(operator, HERE).text, "staff").role == "operator"


def test_who_is_revoked_does_not_come_back_by_the_provider(services, grouped):
    grouped.by_oidc(PERSON, HERE)
    services.identity.revoke_staff("ann@carrier.example")
    for person in (PERSON, OidcPerson(ISSUER, "person-9", PERSON.email, True, PERSON.groups)):
        with pytest.raises(OidcRefused):
            grouped.by_oidc(person, HERE)
    assert len(services.identity.staff()) == 1
    assert trail(services, "staff.sign_in_refused") == [{"why": "revoked", "ended": 1}]


def test_a_flow_is_of_its_browser_used_once_and_short(services, signing, clock):
    flow, other = signing.begin_oidc(), signing.begin_oidc()
    assert len({flow.state, flow.nonce, flow.verifier, other.state}) == 4 and len(flow.verifier) == 43
    for cookie, state in (
        (flow.cookie, other.state), (other.cookie, flow.state), ("", flow.state), (flow.cookie, ""), (flow.cookie, "é"),
        (flow.cookie + "x", flow.state), ("9" * 90, flow.state), ("1e5.x", flow.state), (f"٣.{flow.cookie}", flow.state),
    ):  # fmt: skip
        with pytest.raises(OidcRefused):
            signing.take_oidc(cookie, state, HERE)
    assert signing.take_oidc(flow.cookie, flow.state, HERE) == flow
    with pytest.raises(OidcRefused):
        signing.take_oidc(flow.cookie, flow.state, HERE)
    clock.move(FLOW_LIFE + timedelta(seconds=2))
    with pytest.raises(OidcRefused):
        signing.take_oidc(other.cookie, other.state, HERE)
    clock.move(timedelta(days=2))
    signing.forget_old()
    assert services.connection.execute("SELECT count(*) FROM staff_oidc_state").fetchone() == (0,)


def host(signing, clock, *versions, lacking=()):
    """The sign-in of a host that has these peppers."""
    peppers = Peppers({version: bytes([version]) * 32 for version in versions})
    peppers.lacking = lacking
    return StaffSignIn(
        signing._connection, peppers, clock, signing._identity, signing._sessions, signing._second_factor, signing._rules
    )  # fmt: skip


def test_a_flow_is_used_once_by_hosts_whose_peppers_differ(signing, clock):
    first, second = host(signing, clock, 1, 2), host(signing, clock, 2)
    flow = second.begin_oidc()
    assert first.take_oidc(flow.cookie, flow.state, HERE) == flow
    with pytest.raises(OidcRefused):
        second.take_oidc(flow.cookie, flow.state, HERE)
    newer = host(signing, clock, 3).begin_oidc()
    with pytest.raises(Unavailable, match="lacks pepper-3"):
        host(signing, clock, 2, lacking=(3,)).take_oidc(newer.cookie, newer.state, HERE)


def test_refused_answers_of_the_provider_are_bounded_by_asker(services, signing):
    """Each is a request to the provider, and a row: a stranger could make the provider refuse all of us."""
    ((crowd, _),) = ATTEMPTS_PER_ASKER
    for _ in range(crowd - 1):
        signing.count_oidc(HERE)
    flow, another = signing.begin_oidc(), signing.begin_oidc()
    signing.take_oidc(flow.cookie, flow.state, HERE)
    with pytest.raises(OidcRefused):
        signing.by_oidc(PERSON, HERE)
    with pytest.raises(TooManyAttempts):
        signing.take_oidc(another.cookie, another.state, HERE)
    assert services.connection.execute("SELECT count(*) FROM staff_oidc_state").fetchone() == (1,)
    assert signing.take_oidc(another.cookie, another.state, Origin("staff", "198.51.100.9")) == another
