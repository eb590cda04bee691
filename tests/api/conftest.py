"""The application on the test's own connection, with clients for its roles."""

from tests.support.doors import *  # noqa: F403 - fixtures
