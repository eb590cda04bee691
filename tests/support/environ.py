"""This process's environment without settings: what a test starts has its own."""

import os

# Says whether compiled modules or their sources run: the same for a test and for what it starts.
BUILD = "TOKENWORKS_COMPILE"


def is_setting(name):
    return name.startswith("TOKENWORKS_") and name != BUILD


def without_settings():
    return {name: value for name, value in os.environ.items() if not is_setting(name)}


def for_release(environ):
    """For a release of before that variable: there it is an unknown setting."""
    return {name: value for name, value in environ.items() if name != BUILD}
