"""The commands of what is a person's by law."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.databases import as_role
from tests.support.server import ROOT, Server, in_process
from tokenworks.trust import ensure_pepper

PHONE, NAME = "+8613876543210", "Wilhelmina Xylander"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An installation that is not serving."""

    class Place(Server):
        def start(self, *_args, **_more):
            pass

    with Place(tmp_path_factory.mktemp("privacy")) as made:
        made.cli("subscriber", "create", "--phone", PHONE, "--name", NAME)
        yield made


def run(place, *args):
    return json.loads(place.cli(*args, "--json").stdout)


@pytest.mark.parametrize("text", ["13876543210", "3210", "xyl", "Wilhelmina"])
def test_a_subscriber_is_named_in_many_ways(place, text):
    (found,) = run(place, "subscriber", "find", text)
    assert run(place, "subscriber", "show", "--subscriber", text)["subscriber"] == found
    table = place.cli("subscriber", "find", text).stdout
    assert NAME in table and "13876543210" not in table


def test_nobody_and_several(place):
    assert run(place, "subscriber", "find", "nobody") == []
    refused = place.cli("balance", "--subscriber", "nobody", check=False)
    assert refused.returncode == 1 and "no such subscriber" in refused.stderr
    for number, name in (("13900001111", "Zebulon Aster"), ("13900002222", "Zebulon Boreal")):
        place.cli("subscriber", "create", "--phone", f"+86{number}", "--name", name)
    refused = place.cli("balance", "--subscriber", "zebu", check=False)
    assert (
        refused.returncode == 1 and "more than one" in refused.stderr and "13900002222" not in refused.stderr
    )


def test_consents_are_written_down(place):
    assert {row["given"] for row in run(place, "subscriber", "consent", "--subscriber", PHONE)} == {None}
    rows = run(
        place, "subscriber", "consent", "--subscriber", PHONE, "--purpose", "data_cross_border", "--withdraw"
    )
    assert [row["given"] for row in rows if row["purpose"] == "data_cross_border"] == [False]
    assert (
        place.cli(
            "subscriber", "consent", "--subscriber", PHONE, "--purpose", "terms", check=False
        ).returncode
        == 2
    )
    trail = run(place, "audit")
    assert trail[0]["action"] == "subscriber consent" and trail[0]["before"] == {}
    assert trail[0]["after"]["is"] == {"data_cross_border": False}


def test_a_real_name_is_checked_without_the_number_in_the_shell(place, monkeypatch):
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.StringIO("11010519491231002X\n"))
    said = run(place, "subscriber", "real-name", "--subscriber", PHONE, "--name", NAME)
    assert said["real_name"] == "verified"
    assert "11010519491231002" not in json.dumps(run(place, "audit"))


def test_an_export_is_a_file_of_its_own(place, tmp_path):
    path = tmp_path / "export.json"
    said = run(place, "subscriber", "export", "--subscriber", PHONE, "--to", str(path))
    assert said["bytes"] == path.stat().st_size and path.stat().st_mode & 0o777 == 0o600
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["tables"]["subscriber"][0]["name"] == NAME
    again = place.cli("subscriber", "export", "--subscriber", PHONE, "--to", str(path), check=False)
    assert again.returncode == 1 and "there already" in again.stderr
    row = run(place, "audit")[0]
    assert (row["action"], row["ref"]) == ("subscriber export", said["subscriber_id"])


def test_keys_are_wrapped_again(place):
    assert run(place, "vault", "new-key")["version"] == 2
    assert (
        run(place, "vault", "rewrap")["rewrapped"] >= 1
    )  # the installation's own key is there once something needed it
    assert run(place, "vault", "rewrap")["rewrapped"] == 0
    (place.data_dir / "secrets" / "person-wrap-1").unlink()
    assert run(place, "subscriber", "show", "--subscriber", PHONE)["subscriber"]["name"] == NAME


def test_another_hosts_secrets_are_refused(place, tmp_path):
    environ = place.environ() | {
        "TOKENWORKS_DATABASE_URL": place.url,
        "TOKENWORKS_DATABASE_OWNER_URL": as_role(place.url, "tokenworks"),
    }
    ensure_pepper(tmp_path / "secrets")
    shutil.copy(place.data_dir / "secrets" / "pepper-1", tmp_path / "secrets" / "pepper-1")
    for command in ("init", "serve"):
        refused = subprocess.run(
            [sys.executable, "-m", "tokenworks", "--data-dir", str(tmp_path), command],
            capture_output=True, text=True, env=environ, cwd=ROOT, timeout=60, check=False,
        )  # fmt: skip
        assert refused.returncode == 1 and "person-wrap-" in refused.stderr, refused.stderr
    refused = in_process(["--data-dir", str(tmp_path), "subscriber", "list"], environ)
    assert refused.returncode == 1 and "person-wrap-" in refused.stderr


def test_an_erasure(place, tmp_path):
    made = run(place, "subscriber", "create", "--phone", "+8613811110000", "--name", "Ephemeral Person")
    dry = run(place, "subscriber", "erase", "--subscriber", "13811110000", "--dry-run")
    assert dry["state"] == "erased"
    assert run(place, "subscriber", "find", "Ephemeral")
    said = place.cli("subscriber", "erase", "--subscriber", "13811110000", "--yes").stdout
    assert "is erased; backups forget by" in said
    assert run(place, "subscriber", "find", "Ephemeral") == []
    shown = run(place, "subscriber", "show", "--subscriber", made["subscriber_id"])["subscriber"]
    assert (shown["phone"], shown["name"], shown["state"]) == ("", None, "closed")
    listed = tmp_path / "erased"
    listed.write_text(place.cli("vault", "erased").stdout)
    assert listed.read_text().split() == [made["subscriber_id"]]
    assert run(place, "vault", "erase-again", str(listed)) == {"erased": 0, "named": 1}
    trail = json.dumps(run(place, "audit"))
    assert "Ephemeral" not in trail and "subscriber erase" in trail
    assert run(place, "ledger", "verify")["ok"]
