"""Codes of an authenticator: RFC 6238's own values, used once, guessed seldom; recovery codes; links."""

from datetime import UTC, datetime, timedelta

import pyotp
import pytest

from tokenworks.kernel import Unavailable
from tokenworks.trust import CodeWrong, EnrolmentLinkWrong, Peppers, SecondFactor, TooManyAttempts
from tokenworks.trust.identity.second_factor import (
    ATTEMPTS_PER_ACCOUNT,
    ATTEMPTS_PER_ASKER,
    LINK_LIFE,
    RECOVERY_CODES,
    STEP_S,
)

ADDRESS = "203.0.113.9"


@pytest.fixture
def factor(services):
    return services.staff_sign_in._second_factor


@pytest.fixture
def ann(services):
    services.identity.add_staff("Ann", "finance")
    return services.staff_sign_in.staff_id_of("Ann")


def code_at(secret, clock, steps=0):
    return pyotp.TOTP(secret).at(clock.now() + timedelta(seconds=STEP_S * steps))


@pytest.fixture
def enrolled(factor, ann, clock):
    """(secret, recovery codes) of Ann."""
    link = factor.make_link(ann)
    secret = factor.enrolment(link, "Ann").secret
    codes = factor.confirm(link, code_at(secret, clock))
    clock.move(timedelta(seconds=STEP_S * 3))
    return secret, codes


@pytest.mark.parametrize(
    ("at_s", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_the_standard(factor, ann, clock, services, at_s, code):
    """RFC 6238, appendix B, SHA-1, the last six of its eight digits; the secret is 12345678901234567890."""
    clock.move(datetime.fromtimestamp(at_s, UTC) - clock.now())
    link = factor.make_link(ann)
    row = factor._begun(link)
    sealed = services.vault.own().seal("staff_totp.secret", row.totp_id, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
    services.connection.execute("UPDATE staff_totp SET secret_sealed = %s", (sealed,))
    assert len(factor.confirm(link, code)) == RECOVERY_CODES


def test_a_code_is_used_once_and_no_earlier_one_after_it(factor, ann, enrolled, clock):
    secret, _ = enrolled
    now, before, after = (code_at(secret, clock, steps) for steps in (0, -1, 1))
    assert factor.use(ann, now) == "totp"
    assert factor.use(ann, now) is None and factor.use(ann, before) is None
    assert factor.use(ann, after) == "totp" and factor.use(ann, after) is None
    clock.move(timedelta(seconds=STEP_S))
    assert factor.use(ann, after) is None
    clock.move(timedelta(seconds=STEP_S))
    assert factor.use(ann, code_at(secret, clock)) == "totp"


def test_codes_far_from_now_and_other_texts_are_wrong(factor, ann, enrolled, clock):
    secret, _ = enrolled
    for steps in (-2, 2, 100):
        assert factor.use(ann, code_at(secret, clock, steps)) is None
    now = code_at(secret, clock)
    for text in ("", now[:5], f"{now}0", f" {now[1:]}", "١٢٣٤٥٦", "abcdef", "-00001", "x" * 100):
        assert factor.use(ann, text) is None, text
    assert factor.use(ann, now) == "totp"


def test_the_code_that_confirms_signs_in_no_more(factor, ann, clock):
    link = factor.make_link(ann)
    code = code_at(factor.enrolment(link, "Ann").secret, clock)
    factor.confirm(link, code)
    assert factor.use(ann, code) is None


def test_recovery_codes_are_used_once_and_are_stored_as_macs(factor, ann, enrolled, services):
    _, codes = enrolled
    assert len(set(codes)) == RECOVERY_CODES == factor.recovery_codes_left(ann)
    assert factor.use(ann, codes[0].upper().replace("-", " ")) == "recovery_code"
    assert factor.use(ann, codes[0]) is None and factor.recovery_codes_left(ann) == RECOVERY_CODES - 1
    assert factor.use(ann, codes[1].replace("-", "")) == "recovery_code"
    stored = str(services.connection.execute("SELECT t::text FROM staff_recovery_code t").fetchall())
    assert not any(code.replace("-", "") in stored for code in codes)


def test_the_secret_is_sealed(factor, ann, services):
    secret = factor.enrolment(factor.make_link(ann), "Ann").secret
    assert len(secret) == 32
    for table in ("staff_totp", "audit"):
        stored = services.connection.execute(f"SELECT t::text, t::text FROM {table} t").fetchall()
        assert secret not in str(stored) and secret.encode().hex() not in str(stored)


def test_a_link_is_used_once_and_only_the_newest_within_a_day(factor, ann, clock):
    first = factor.make_link(ann)
    second = factor.make_link(ann)
    with pytest.raises(EnrolmentLinkWrong):
        factor.enrolment(first, "Ann")
    secret = factor.enrolment(second, "Ann").secret
    assert secret == factor.enrolment(second, "Ann").secret, "it may be opened again until it is confirmed"
    with pytest.raises(CodeWrong):
        factor.confirm(second, "000000" if code_at(secret, clock) != "000000" else "000001")
    factor.confirm(second, code_at(secret, clock))
    for link in (second, "twl_x", "", "twl_" + "x" * 200):
        with pytest.raises(EnrolmentLinkWrong):
            factor.confirm(link, code_at(secret, clock, 1))
    third = factor.make_link(ann)
    clock.move(LINK_LIFE)
    with pytest.raises(EnrolmentLinkWrong):
        factor.enrolment(third, "Ann")


def test_the_authenticator_of_before_is_in_force_until_the_next_is_confirmed(factor, ann, enrolled, clock):
    secret, codes = enrolled
    link = factor.make_link(ann)
    assert factor.use(ann, code_at(secret, clock)) == "totp"
    new = factor.enrolment(link, "Ann").secret
    factor.confirm(link, code_at(new, clock))
    clock.move(timedelta(seconds=2 * STEP_S))
    assert factor.use(ann, code_at(secret, clock)) is None and factor.use(ann, codes[2]) is None
    assert factor.use(ann, code_at(new, clock)) == "totp"


def test_refused_sign_ins_are_counted_by_account_and_by_asker(factor, ann, clock, services):
    services.identity.add_staff("Bo", "operator")
    bo = services.staff_sign_in.staff_id_of("Bo")
    (few, span), (many, day) = ATTEMPTS_PER_ACCOUNT
    for number in range(few):
        factor.check_attempts(ann, ADDRESS)
        factor.count_attempt(ann, f"198.51.100.{number}")
    with pytest.raises(TooManyAttempts) as refused:
        factor.check_attempts(ann, ADDRESS)
    assert 0 < refused.value.wait_s <= span.total_seconds() + 1
    factor.check_attempts(bo, ADDRESS)
    factor.check_attempts(None, "198.51.100.1")
    guesses = few
    while True:
        clock.move(span)
        try:
            for _ in range(few):
                factor.check_attempts(ann, ADDRESS)
                factor.count_attempt(ann, ADDRESS)
                guesses += 1
        except TooManyAttempts:
            break
    assert guesses == many
    factor.make_link(ann)
    factor.check_attempts(ann, ADDRESS)
    ((crowd, span),) = ATTEMPTS_PER_ASKER
    for number in range(crowd):
        factor.count_attempt(None, f"2001:db8::{number:x}")
    with pytest.raises(TooManyAttempts):
        factor.check_attempts(None, "2001:db8::ffff")
    factor.check_attempts(None, "2001:db8:1::1")
    clock.move(day * 3)
    factor.forget_old()
    assert services.connection.execute("SELECT count(*) FROM staff_attempt").fetchone() == (0,)


def test_a_retired_pepper_ends_recovery_codes_and_leaves_the_authenticator(
    services, factor, ann, enrolled, clock
):
    secret, codes = enrolled
    other = SecondFactor(services.connection, {9: b"p" * 32}, clock, services.vault, "Tokenworks")
    assert other.use(ann, codes[0]) is None
    assert other.use(ann, code_at(secret, clock)) == "totp"


def test_what_a_host_without_a_pepper_cannot_check_is_not_wrong(services, factor, ann, enrolled, clock):
    """Five wrong codes lock an account: a right one counts for none of them."""
    _, codes = enrolled
    peppers = Peppers({9: b"p" * 32})
    peppers.lacking = (1,)
    lacking = SecondFactor(services.connection, peppers, clock, services.vault, "Tokenworks")
    with pytest.raises(Unavailable, match="lacks pepper-1"):
        lacking.use(ann, codes[0])
    assert lacking.use(ann, "abc") is None
    link = factor.make_link(ann)
    with pytest.raises(Unavailable, match="lacks pepper-1"):
        lacking.owner_of(link)
    assert factor.use(ann, codes[0]) == "recovery_code" and factor.owner_of(link) == ann
