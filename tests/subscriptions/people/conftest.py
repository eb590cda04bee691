"""What the tests of people begin with."""

import pytest

from tests.support.people import NAME, PHONE
from tokenworks.app.bootstrap import make_works
from tokenworks.app.settings import load_settings


@pytest.fixture
def remade(works):
    """All rooms again, on the same connection, with other settings."""

    def make(**options):
        settings = load_settings({"data_dir": str(works.session_dir / "seed")} | options).settings
        return make_works(settings, works.connection, works.clock)

    return make


@pytest.fixture
def works(works, session_dir):
    class WithDir:
        def __getattr__(self, name):
            return session_dir if name == "session_dir" else getattr(works, name)

    return WithDir()


@pytest.fixture
def subscriber(works):
    return works.subscriptions.register(PHONE, NAME, broadband="bb-778899xy")
