"""What the tests of people begin with."""

import pytest

from tests.support.people import NAME, PHONE
from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings


@pytest.fixture
def remade(services):
    """All rooms again, on the same connection, with other settings."""

    def make(**options):
        settings = load_settings({"data_dir": str(services.session_dir / "seed")} | options).settings
        return make_works(settings, services.connection, services.clock)

    return make


@pytest.fixture
def services(services, session_dir):
    class WithDir:
        def __getattr__(self, name):
            return session_dir if name == "session_dir" else getattr(services, name)

    return WithDir()


@pytest.fixture
def subscriber(services):
    return services.subscriptions.register(PHONE, NAME, broadband="bb-778899xy")
