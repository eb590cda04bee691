"""Where passkeys can be used: what the settings may say, and what a request's headers can't."""

import pytest
from pydantic import ValidationError

from tokenworks.app.settings import load_settings
from tokenworks.kernel import Invalid
from tokenworks.trust import PasskeySites


@pytest.mark.parametrize(
    ("settings", "reached", "rp_id"),
    [
        ({"origins": "https://shop.example"}, "https://shop.example", "shop.example"),
        ({"origins": "HTTPS://Shop.Example:443/path"}, "https://shop.example", "shop.example"),
        ({"origins": "https://a.shop.example https://b.shop.example", "rp_id": "shop.example"}, "https://b.shop.example", "shop.example"),
        ({"origins": "https://shop.example:8443"}, "https://shop.example:8443", "shop.example"),
        ({"origins": "https://shop.example:8443"}, "https://shop.example", None),
        ({"origins": "https://shop.example"}, "https://m.shop.example", None),
        ({"origins": "https://shop.example"}, "http://localhost:8000", None),
        ({"public_url": "https://shop.example/"}, "https://shop.example", "shop.example"),
        ({"public_url": "http://shop.example"}, "http://shop.example", None),
        ({"public_url": "https://192.0.2.7"}, "https://192.0.2.7", None),
        ({"origins": "http://localhost:8000"}, "http://localhost:8000", "localhost"),
        ({}, "http://localhost:8000", "localhost"),
        ({}, "http://localhost.evil.example", None),
        ({}, "https://shop.example", None),
        ({}, "nothing", None),
    ],
)  # fmt: skip
def test_passkeys_are_of_the_named_origins(settings, reached, rp_id):
    found = PasskeySites(**settings).of(reached)
    assert (found and found.rp_id) == rp_id
    assert found is None or reached in found.origins


@pytest.mark.parametrize(
    "settings",
    [
        {"origins": "http://shop.example"},
        {"origins": "https://shop.example https://other.example"},
        {"origins": "https://shop.example", "rp_id": "other.example"},
        {"origins": "https://evilshop.example", "rp_id": "shop.example"},
        {"origins": "https://shop.example", "rp_id": "example"},
        {"origins": "https://192.0.2.7"},
        {"origins": "https://[2001:db8::1]"},
        {"origins": "https://shop.example:x"},
        {"origins": "ftp://shop.example"},
        {"rp_id": "shop.example"},
        {"origins": " ".join(f"https://s{n}.shop.example" for n in range(17)), "rp_id": "shop.example"},
    ],
)
def test_a_setting_with_which_no_browser_makes_a_passkey_is_refused(settings):
    with pytest.raises(Invalid):
        PasskeySites(**settings)
    named = {f"passkey_{name}": value for name, value in settings.items()}
    with pytest.raises((Invalid, ValidationError)):
        load_settings(named)
