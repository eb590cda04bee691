"""Passkeys in Chromium, with its own authenticator: a person adds one, signs in with it, and takes it away."""

import pytest

from tests.pages.person import Person, needs_browser
from tests.support.axe import found_by_axe

pytestmark = [pytest.mark.xdist_group("browser"), needs_browser]


@pytest.fixture
def local(base):
    """Browsers have passkeys on `localhost`, and not on addresses."""
    return base.replace("127.0.0.1", "localhost")


@pytest.fixture
def person(browser, local):
    made = Person(browser, local, "en-GB")
    yield made
    assert made.complaints == []
    made.context.close()


def device(page, **more):
    """A device with a screen lock, as Chromium imitates it."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True, "isUserVerified": True,
        "automaticPresenceSimulation": True, **more,
    }  # fmt: skip
    made = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return session, made["authenticatorId"]


def test_a_person_adds_a_passkey_signs_in_with_it_and_removes_it(person, codes):
    page = person.page
    session, authenticator = device(page)
    person.go("/sign-in?back=/sessions")
    person.sign_in(codes)
    page.get_by_role("heading", name="Passkeys").wait_for()
    page.get_by_label("Name of the passkey").fill("My <b>phone</b>")
    person.tap("button", "Add a passkey")
    assert page.get_by_text("The passkey is added.").is_visible()
    assert page.get_by_role("heading", name="My <b>phone</b>").is_visible()
    person.looks_right(chinese=False)
    assert found_by_axe(page) == []
    person.tap("button", "中文")
    page.get_by_role("heading", name="通行密钥").wait_for()
    person.looks_right(chinese=True)
    person.tap("button", "English")
    (made,) = session.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"]
    assert (made["rpId"], made["isResidentCredential"]) == ("localhost", True)
    # Signing in takes one tap, and nothing is typed.
    person.tap("button", "Sign out")
    person.go("/sign-in?back=/sessions")
    assert found_by_axe(page) == []
    person.tap("button", "Sign in with a passkey")
    page.get_by_role("heading", name="My <b>phone</b>").wait_for()
    assert page.get_by_text("Last used").count() >= 2
    page.get_by_text("Rename", exact=True).click()
    page.get_by_label("Name of the passkey").first.fill("Old phone")
    person.tap("button", "Save the name")
    page.get_by_role("heading", name="Old phone").wait_for()
    page.locator("summary", has_text="Remove").click()
    person.tap("button", "Remove this passkey")
    assert page.get_by_text("The passkey is removed.").is_visible()
    # The device still has it, and it opens nothing.
    person.tap("button", "Sign out")
    person.go("/sign-in")
    person.tap("button", "Sign in with a passkey")
    assert page.get_by_text("This passkey is not known here").is_visible()
    assert [text for text in person.complaints if "status of 422" not in text] == []
    person.complaints.clear()


def test_a_device_that_does_not_know_its_person_signs_nobody_in_and_a_code_does(person, codes):
    page = person.page
    device(page, isUserVerified=False)
    person.go("/sign-in?back=/sessions")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_text("That did not work. Try again, or sign in with a code.").wait_for()
    assert page.get_by_role("button", name="Sign in with a passkey").is_enabled()
    person.sign_in(codes)
    page.get_by_label("Name of the passkey").fill("phone")
    page.get_by_role("button", name="Add a passkey").click()
    page.get_by_text("No passkey was added.").wait_for()


def test_without_a_script_and_at_an_address_there_is_the_code_alone(browser, base, local):
    for address, scripts in ((local, False), (base, True)):
        context = browser.new_context(java_script_enabled=scripts, locale="en-GB")
        page = context.new_page()
        page.goto(f"{address}/sign-in")
        assert page.get_by_role("button", name="Send me a code").is_visible()
        assert not page.get_by_role("button", name="Sign in with a passkey").is_visible()
        context.close()
