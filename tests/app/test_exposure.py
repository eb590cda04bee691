import pytest

from tokenworks.app.settings import load_settings
from tokenworks.app.starting import check_durability, check_exposure
from tokenworks.kernel import Invalid


def settings(**given):
    return load_settings(given, {}).settings


class Database:
    def __init__(self, *said):
        self.said = said

    def execute(self, _):
        return self

    def fetchone(self):
        return self.said


@pytest.mark.parametrize(
    ("given", "said", "reason"),
    [
        ({"environment": "dev"}, ("off", "off", ""), None),
        ({"environment": "prod"}, ("off", "on", "s1"), "synchronous_commit=off"),
        ({"environment": "prod"}, ("on", "off", "s1"), "fsync=off"),
        ({"environment": "prod"}, ("on", "on", ""), "no synchronous standby"),
        ({"environment": "prod"}, ("on", "on", "FIRST 1 (s1)"), None),
        ({"environment": "prod", "allow_no_standby": True}, ("on", "on", ""), None),
    ],
)
def test_a_database_that_may_lose_commits_is_refused_outside_dev(given, said, reason):
    if reason is None:
        check_durability(settings(**given), Database(*said))
    else:
        with pytest.raises(Invalid, match=reason):
            check_durability(settings(**given), Database(*said))


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"listen": "127.0.0.1:1"}, False),
        ({"listen": "localhost:1"}, False),
        ({"listen": "0.0.0.0:1"}, True),
        ({"listen": "0.0.0.0:1", "allow_plain_http": True}, False),
        ({"listen": "0.0.0.0:1", "trusted_proxies": "10.0.0.0/8"}, False),
    ],
)
def test_plain_http_stays_on_loopback_unless_told(given, refused):
    if refused:
        with pytest.raises(Invalid, match="plain HTTP"):
            check_exposure(settings(**given))
    else:
        check_exposure(settings(**given))
