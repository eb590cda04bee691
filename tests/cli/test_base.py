"""What the commands share."""

import os
import pwd

from tokenworks.cli.base import Context


def test_who_runs_a_command_is_not_what_the_environment_says(monkeypatch):
    """Else one person is two, and approves what it asked for."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "mallory")
    assert Context(None).actor == f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert Context(None).actor == "cli:uid-4000000000"
