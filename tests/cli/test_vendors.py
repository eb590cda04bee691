"""`tokenworks vendor` and `deployment add --vendor`."""

import json

import pytest
from click.testing import CliRunner

from tests.support.server import Server
from tokenworks.cli.main import cli
from tokenworks.factory import profile_names


def run(*args):
    return CliRunner().invoke(cli, args, catch_exceptions=True)


def test_the_vendors_are_listed_and_shown_with_their_sources():
    listed = json.loads(run("vendor", "list", "--json").stdout)
    assert [vendor["profile"] for vendor in listed] == [name for name in profile_names() if name != "generic"]
    table = run("vendor", "list")
    assert table.exit_code == 0 and "deepseek" in table.output
    shown = json.loads(run("vendor", "show", "zhipu", "--json").stdout)
    assert shown["errors"]["codes"]["1113"] == "quota" and shown["sources"][0]["date"]
    text = run("vendor", "show", "minimax").output
    assert "https://api.minimax.io/v1" in text and "moderation 1026, 1027" in text and "Sources" in text


def test_a_vendor_that_is_not_there_is_said_with_the_one_that_may_be_meant():
    done = run("vendor", "show", "kimi")
    assert done.exit_code == 1 and "is it moonshot?" in str(done.exception or done.output)


@pytest.fixture(scope="module")
def works(tmp_path_factory):
    """An installation without a server."""
    made = Server(tmp_path_factory.mktemp("vendors-cli"))
    made.make()
    made.attach()
    yield made
    made.__exit__()


def secret(works, name):
    file = works.settings.secrets / name
    file.write_text("sk-1\n")
    file.chmod(0o600)


def shown(works, *args):
    return json.loads(works.cli("deployment", "add", *args, "--show", "--json").stdout)


def names(works):
    return [deployment["name"] for deployment in json.loads(works.cli("deployment", "list", "--json").stdout)]


def test_no_more_than_a_credential_is_needed(works):
    args = ("--vendor", "deepseek", "--model", "deepseek-chat")
    done = works.cli("deployment", "add", *args, check=False)
    assert done.returncode == 1 and "TOKENWORKS_UPSTREAM_DEEPSEEK" in done.stderr
    assert str(works.settings.secrets / "deepseek") in done.stderr
    secret(works, "deepseek")
    before = names(works)
    found = shown(works, *args)
    assert (
        found["deployment"]["credential"] == "file:deepseek"
        and found["origins"]["credential"] == "it is in secrets_dir"
    )
    assert (
        found["origins"]["base_url"] == "profile deepseek, region global"
        and found["origins"]["draining"] == "by default"
    )
    assert found["origins"]["context_tokens"] == "catalogue of models" and found["taken"]
    assert found["deployment"]["context_tokens"] > 131_072
    assert names(works) == before, "to show is to change nothing"
    table = works.cli("deployment", "add", *args, "--show").stdout
    assert "not declared yet" in table and "https://api.deepseek.com" in table
    assert (
        "Deployment deepseek-deepseek-chat serves deepseek-chat over chat, responses, messages."
        in works.cli("deployment", "add", *args).stdout
    )
    listed = json.loads(works.cli("deployment", "list", "--json").stdout)
    (made,) = [deployment for deployment in listed if deployment["name"] == "deepseek-deepseek-chat"]
    assert made == found["deployment"] | {name: value for name, value in made.items() if value is None} | {
        "price": made["price"]
    }
    assert "more_credentials" not in made, "an older release reads it"
    trail = json.loads(works.cli("deployment", "history", "deepseek-deepseek-chat", "--json").stdout)
    assert [row["action"] for row in trail] == ["deployment add"]
    assert trail[0]["after"]["is"]["base_url"] == "https://api.deepseek.com"


def test_every_default_can_be_given_instead(works):
    found = shown(
        works, "--vendor", "zhipu", "--model", "glm", "--upstream-model", "glm-5.2", "--name", "z1", "--region", "intl", "--protocol", "chat",
        "--context-tokens", "1000", "--max-output-tokens", "100", "--price", "output=5", "--kind", "hub", "--profile", "generic",
        "--credential", "env:TOKENWORKS_UPSTREAM_Z", "--credential", "zhipu-2",
    )  # fmt: skip
    made = found["deployment"]
    assert (made["name"], made["upstream_model"], made["protocols"], made["kind"], made["profile"]) == (
        "z1",
        "glm-5.2",
        ["chat"],
        "hub",
        "generic",
    )
    assert (made["context_tokens"], made["max_output_tokens"], made["price"]["output_nano"]) == (1000, 100, 5)
    assert (made["base_url"], made["region"]) == ("https://api.z.ai/api/paas/v4", "intl")
    assert (made["credential"], made["more_credentials"]) == ("env:TOKENWORKS_UPSTREAM_Z", ["file:zhipu-2"])


@pytest.mark.parametrize(("args", "code", "said"), [
    (("--vendor", "kimi", "--model", "m"), 1, "is it moonshot?"), (("--model", "m"), 2, "--name and --base-url are needed"),
    (("--model", "m", "--name", "a", "--vendor", "nobody"), 1, "there is no vendor nobody"),
    (("--vendor", "azure-openai", "--model", "m", "--credential", "a"), 1, "give it with --base-url"),
    (("--vendor", "moonshot", "--model", "m", "--region", "us"), 1, "it has cn, intl"),
    (("--vendor", "moonshot", "--model", "m", "--credential", "a", "--credential", "a"), 1, "named twice"),
    (("--vendor", "moonshot", "--model", "m", "--credential", "a", "--api-key-file", "b"), 2, "exclude each other"),
    (("--vendor", "moonshot", "--model", "m", "--credential", "pepper-1"), 1, "a credential is"),
    (("--name", "a", "--base-url", "https://x.example", "--model", "m", "--plan", "coding"), 2, "--plan is of a vendor"),
    (("--vendor", "moonshot", "--model", "m", *(word for n in range(17) for word in ("--credential", f"c{n}"))), 1, "more_credentials"),
])  # fmt: skip
def test_what_can_not_be_declared_is_said(works, args, code, said):
    done = works.cli("deployment", "add", *args, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_credentials_are_changed_together(works):
    secret(works, "moonshot")
    works.cli("deployment", "add", "--vendor", "moonshot", "--model", "kimi-k3")
    name = "moonshot-kimi-k3"
    made = json.loads(
        works.cli("deployment", "set", name, "--credential", "m1", "--credential", "m2", "--json").stdout
    )
    assert (made["credential"], made["more_credentials"]) == ("file:m1", ["file:m2"])
    made = json.loads(works.cli("deployment", "set", name, "--api-key-file", "m3", "--json").stdout)
    assert made["credential"] == "file:m3" and "more_credentials" not in made
    made = json.loads(works.cli("deployment", "set", name, "--no-credential", "--json").stdout)
    assert made["credential"] is None and "more_credentials" not in made


def test_a_deployment_that_a_newer_release_wrote_is_read_without_what_is_new(works):
    secret(works, "xai")
    works.cli("deployment", "add", "--vendor", "xai", "--model", "grok")
    works.connection.execute(
        "UPDATE deployment SET content = content || '{\"unheard_of\": 1}' WHERE name = 'xai-grok'"
    )
    works.connection.commit()
    assert "xai-grok" in names(works)
