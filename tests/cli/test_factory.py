"""The commands of the token factory."""

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from tokenworks.app.settings import load_settings
from tokenworks.cli.main import cli
from tokenworks.trust import ensure_pepper


def run(*args):
    done = CliRunner().invoke(cli, args, catch_exceptions=True)
    return done


def test_policies_are_compared_and_drawn(tmp_path):
    curves = tmp_path / "curves.svg"
    done = run(
        "factory", "simulate", "--trace", "synthetic:conversation", "--fleet", "8", "--policy", "predicted", "--policy",
        "least_outstanding", "--curves", str(curves), "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    ours, least = said["policies"]["predicted"], said["policies"]["least_outstanding"]
    assert said["requests"] == 5131
    assert ours["first_token_mean_s"] < least["first_token_mean_s"] and ours["in_time"] > least["in_time"]
    root = ET.fromstring(curves.read_text())
    assert root.tag.endswith("svg")
    assert len([e for e in root.iter() if e.tag.endswith("polyline")]) == 2
    assert {"predicted", "least_outstanding"} <= {e.text for e in root.iter()}


def test_a_fleet_from_a_file_and_how_many_machines(tmp_path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text(
        "- {name: hub, count: 3, region: cn-sh, hour_nano: 20000000000}\n- {name: vendor, kind: vendor, requests_max: 4, round_trip_ms: 80, input_nano: 2000, output_nano: 8000}\n"
    )
    args = ("factory", "simulate", "--trace", "synthetic:uniform", "--fleet", str(fleet), "--traffic", "0.2")
    done = run(*args, "--machines-for", "0.9", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["policies"]["predicted"]
    assert found["machines"] >= 1 and found["cost_nano"] > 0 and found["energy_wh"] > 0
    table = run(*args)
    assert table.exit_code == 0 and "predicted" in table.output


@pytest.mark.parametrize(
    ("fleet", "reason"),
    [
        ("- {count: 0}", "0.count"),
        ("- {colour: red}", "0.colour"),
        ("[]", "a fleet has an engine"),
        ("{", "fleet.yaml"),
        ("count: 3", "valid list"),
    ],
)
def test_a_faulty_fleet_is_refused(tmp_path, fleet, reason):
    path = tmp_path / "fleet.yaml"
    path.write_text(fleet)
    from tokenworks.factory import TraceFaulty, read_fleet

    with pytest.raises(TraceFaulty, match=reason):
        read_fleet(str(path))
    with pytest.raises(TraceFaulty, match="a number of engines"):
        read_fleet(str(tmp_path / "nowhere.yaml"))


def test_a_deployment_is_changed_and_its_history_told(database_url, session_dir, monkeypatch):
    """Price, credential, limits: what is not said stays; who changed what is kept, also of one that was removed."""
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    monkeypatch.setenv("TOKENWORKS_DATA_DIR", str(session_dir / "seed"))
    ensure_pepper(load_settings({}).settings.secrets)

    def run(*args, code=0):
        done = CliRunner().invoke(cli, ["deployment", *args])
        assert done.exit_code == code, done.output
        return done.output

    run(
        "add", "--name", "box", "--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--protocol", "chat", "--allow-private",
        "--price", "output=8000", "--price", "fresh_input=2000", "--context-tokens", "4000",
    )  # fmt: skip
    made = json.loads(run("set", "box", "--price", "output=9000", "--api-key-env", "TOKENWORKS_UPSTREAM_BOX", "--max-output-tokens", "500", "--json"))  # fmt: skip
    assert (made["price"]["output_nano"], made["price"]["fresh_input_nano"]) == (9000, 2000)
    assert (made["credential"], made["max_output_tokens"], made["context_tokens"]) == ("env:TOKENWORKS_UPSTREAM_BOX", 500, 4000)  # fmt: skip
    assert json.loads(run("set", "box", "--no-credential", "--json"))["credential"] is None
    for bad in (
        ["--price", "output=x"],
        [],
        ["--no-credential", "--api-key-env", "TOKENWORKS_UPSTREAM_A"],
        ["--max-output-tokens", "0"],
        ["--api-key-env", "PATH"],
    ):
        run("set", "box", *bad, code=2 if not bad or bad[0] in {"--price", "--no-credential"} else 1)
    run("set", "nothing", "--price", "output=1", code=1)
    run("remove", "box")
    history = json.loads(run("history", "box", "--json"))
    assert [row["action"] for row in history] == ["deployment remove", "deployment set", "deployment set", "deployment add"]  # fmt: skip
    assert history[1]["changed"] == ["credential: env:TOKENWORKS_UPSTREAM_BOX -> None"]
    assert any("9000" in change and "8000" in change for change in history[2]["changed"])
    text = run("history", "box")
    assert "deployment set" in text and all(len(line) <= 80 for line in text.split("\n")), text
