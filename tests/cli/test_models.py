"""The catalogue of models as an operator uses it: imports, lists, figures for deployments."""

import json

import pytest
from click.testing import CliRunner

from tokenworks.app.settings import load_settings
from tokenworks.cli.main import cli
from tokenworks.trust import ensure_pepper

LITELLM = {
    "sample_spec": {"litellm_provider": "one of them"},
    "zai/glm-5": {"litellm_provider": "zai", "mode": "chat", "max_output_tokens": 4242, "input_cost_per_token": 9e-07, "output_cost_per_token": -1},
    "groq/brand-new": {"litellm_provider": "groq", "mode": "chat", "max_input_tokens": 1000},
    "bad\u001b[2J": {"litellm_provider": "groq"},
    "pictures": {"litellm_provider": "groq", "mode": "image_generation"},
}  # fmt: skip


@pytest.fixture
def run(database_url, session_dir, monkeypatch):
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    monkeypatch.setenv("TOKENWORKS_DATA_DIR", str(session_dir / "seed"))
    ensure_pepper(load_settings({}).settings.secrets)

    def command(*args, code=0, answer=None):
        done = CliRunner().invoke(cli, args, input=answer)
        assert done.exit_code == code, done.output
        return done.stdout

    return command


def test_a_file_is_shown_asked_about_imported_and_repeated(run, tmp_path):
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(LITELLM))
    cards = run("offering", "list", "--json")
    dry = run("model", "import", str(path), "--dry-run")
    assert "4 entries of the form litellm: 1 models are new, 1 change" in dry
    assert (
        "+ brand-new" in dry
        and "glm-5: output_tokens_max: 131072 -> 4242" in dry
        and "negative: -1" in dry
        and "image_generation" in dry
    )
    assert "\x1b" not in dry and "changes nothing of what customers pay" in dry
    assert "would be imported" in dry
    assert "Import this?" in run("model", "import", str(path), code=1, answer="n\n")
    assert not [model for model in json.loads(run("model", "list", "--json")) if model["imported"]]
    assert "2 models are imported" in run("model", "import", str(path), answer="y\n")
    assert "Nothing to import" in run("model", "import", str(path), "--yes")
    said = json.loads(run("model", "import", str(path), "--yes", "--json", "--format", "litellm"))
    assert (said["added"], said["changed"], said["same"], said["not_understood_total"]) == ([], {}, 2, 3)
    assert run("offering", "list", "--json") == cards
    trail = json.loads(run("audit", "--json"))
    assert [row["action"] for row in trail].count("model import") == 3
    run("model", "import", str(path), "--json", code=2)
    run("model", "import", str(path), "--format", "openrouter", "--yes", code=1)


def test_models_are_listed_and_shown_with_their_sources(run):
    run("model", "set", "own-brand", "--quality", "50", "--tools")
    everything = json.loads(run("model", "list", "--json"))
    assert len(everything) > 170 and everything[0]["name"] == "own-brand" and everything[0]["quality"] == 50
    assert [model["name"] for model in json.loads(run("model", "list", "--here", "--json"))] == ["own-brand"]
    shown = run("model", "show", "zai-org/GLM-5")
    for part in (
        "glm-5: not deployed.",
        "maker: Zhipu",
        "at siliconflow: zai-org/GLM-5",
        "price CNY cn: input 4",
        "desirecore/config-center",
        "Nothing is imported",
    ):
        assert part in shown, shown
    assert "has nothing of it" in run("model", "show", "own-brand")
    run("model", "show", "nothing", code=1)
    run("model", "remove", "own-brand")
    run("model", "remove", "own-brand", code=1)


def test_a_deployment_is_added_without_figures(run, monkeypatch):
    def add(name, *args):
        where = ("--base-url", "http://127.0.0.1:9/v1", "--protocol", "chat", "--allow-private")
        return run("deployment", "add", "--name", name, *where, *args)

    said = add("zhipu-1", "--model", "glm-4.6v", "--vendor", "zhipu")
    assert "context_tokens 128000" in said and "model glm-4.6v: text, image, video, tools" in said
    plain = json.loads(add("own-1", "--model", "glm-4.6v", "--no-facts", "--json"))
    assert (plain["context_tokens"], plain["price"]["output_nano"]) == (131072, None)
    given = json.loads(
        add(
            "given-1",
            "--model",
            "glm-4.6v",
            "--vendor",
            "zhipu",
            "--context-tokens",
            "5000",
            "--price",
            "output=1",
            "--json",
        )
    )
    assert (
        given["context_tokens"],
        given["max_output_tokens"],
        given["price"]["output_nano"],
        given["price"]["fresh_input_nano"],
    ) == (5000, 32768, 1, None)
    dollars = ("--model", "claude-sonnet-4-5", "--vendor", "anthropic")
    assert "usd_yuan has no rate" in add("claude-1", *dollars)
    monkeypatch.setenv("TOKENWORKS_USD_YUAN", "7.1")
    assert json.loads(add("claude-2", *dollars, "--json"))["price"]["output_nano"] == 15 * 7100
    listed = {model["name"]: model for model in json.loads(run("model", "list", "--here", "--json"))}
    assert (
        listed["glm-4.6v"]["deployments"] == ["given-1", "own-1", "zhipu-1"]
        and listed["glm-4.6v"]["declared"]
    )
    assert "zhipu-1" in run("model", "show", "glm-4.6v")


@pytest.mark.parametrize("bad", ["0", "0.0", "-1", "seven", "7,1", "1e3"])
def test_a_rate_of_exchange_is_a_decimal_above_zero(run, monkeypatch, bad):
    monkeypatch.setenv("TOKENWORKS_USD_YUAN", bad)
    run("config", "show", code=1)
