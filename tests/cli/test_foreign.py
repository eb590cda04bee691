"""Imports from other gateways, as an operator makes them."""

import contextlib
import hashlib
import json
import sqlite3
import stat
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from tokenworks.app.settings import load_settings
from tokenworks.cli.main import cli
from tokenworks.trust import ensure_pepper

PHONE = "+8613800000077"
CONFIG = """
model_list:
- {model_name: chat-one, litellm_params: {model: deepseek/deepseek-chat, api_key: sk-vendor-one, rpm: 60, input_cost_per_token: 1e-7}}
- {model_name: chat-one, litellm_params: {model: deepseek/deepseek-chat, api_key: sk-vendor-two}}
- {model_name: claude, litellm_params: {model: anthropic/claude-sonnet, api_key: os.environ/ANTHROPIC_API_KEY}}
- {model_name: azure-one, litellm_params: {model: azure/gpt-4o, api_base: 'https://x.azure.com', api_key: k}}
- {model_name: inside, litellm_params: {model: hosted_vllm/qwen, api_base: 'http://10.0.0.7:8000/v1'}}
- {model_name: '*', litellm_params: {model: 'openai/*'}}
- {model_name: "bad\\u001b[2J", litellm_params: {model: groq/x}}
- 7
router_settings: {model_group_alias: {gpt-4: chat-one}, num_retries: 2}
general_settings: {master_key: sk-1234}
"""


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


TABLES = {
    "LiteLLM_TeamTable": [
        {"team_id": "t1", "team_alias": "Research", "models": ["chat-one"], "max_budget": 10, "budget_duration": "30d", "rpm_limit": 5},
        {"team_id": "t2", "team_alias": "Shut", "models": [], "blocked": True},
    ],
    "LiteLLM_UserTable": [{"user_id": "u1", "user_alias": "Ann", "teams": ["t1"], "models": []}],
    "LiteLLM_VerificationToken": [
        {"token": sha("sk-" + "a" * 22), "key_alias": "team key", "team_id": "t1", "models": [], "spend": 0.5, "tpm_limit": 100},
        {"token": sha("sk-" + "b" * 22), "key_alias": "ann's", "user_id": "u1", "models": ["claude"], "max_budget": 2.5, "spend": 1},
        {"token": sha("sk-" + "c" * 22), "key_alias": "blocked", "blocked": True},
        {"token": sha("sk-" + "d" * 22), "key_alias": "of a blocked team", "team_id": "t2"},
        {"token": sha("sk-" + "e" * 22), "key_alias": "routes", "allowed_routes": ["/v1/embeddings"]},
        {"token": sha("sk-" + "f" * 22), "key_alias": "spent", "max_budget": 1, "spend": 3},
        {"token": "no hash", "key_alias": "odd"},
        {"token": sha("sk-" + "h" * 22), "key_alias": "wider than its team", "team_id": "t1", "models": ["chat-one", "claude"]},
        {"token": sha("sk-" + "i" * 22), "key_alias": "beside its team", "team_id": "t1", "models": ["claude"]},
        {"token": sha("sk-" + "j" * 22), "key_alias": "of an organization", "organization_id": "o1"},
        {"token": sha("sk-" + "g" * 22), "key_alias": "stranger's", "user_id": "u9"},
    ],
}  # fmt: skip


@pytest.fixture
def run(database_url, session_dir, monkeypatch):
    monkeypatch.setenv("TOKENWORKS_DATABASE_URL", database_url)
    monkeypatch.setenv("TOKENWORKS_DATA_DIR", str(session_dir / "seed"))
    secrets = load_settings({}).settings.secrets
    ensure_pepper(secrets)

    def command(*args, code=0, answer=None):
        done = CliRunner().invoke(cli, args, input=answer)
        assert done.exit_code == code, done.output
        return done.stdout

    command.secrets = secrets
    yield command
    for path in secrets.glob("import-*"):
        path.unlink()


@pytest.fixture
def litellm(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "tables.json").write_text(json.dumps(TABLES))
    return [str(tmp_path / "config.yaml"), "--database", str(tmp_path / "tables.json"), "--subscriber", PHONE]


def reasons(said):
    return {(f["outcome"], f["what"]): f["reason"] for f in said["findings"]}


def test_litellm_is_shown_taken_once_and_nothing_of_a_key_is_printed(run, litellm):
    run("subscriber", "create", "--phone", PHONE)
    dry = run("import", "litellm", *litellm, "--tokens-per-usd", "1000", "--dry-run")
    assert "sk-vendor" not in dry and "\x1b" not in dry and "would be made" in dry
    assert json.loads(run("deployment", "list", "--json")) == [] and not list(run.secrets.glob("import-*"))
    run("import", "litellm", *litellm, code=1, answer="n\n")
    said = json.loads(run("import", "litellm", *litellm, "--tokens-per-usd", "1000", "--yes", "--json"))
    found = json.loads(run("deployment", "list", "--json"))
    assert sorted(d["model"] for d in found) == ["chat-one", "chat-one", "claude"]
    assert {d["upstream_model"] for d in found} == {"deepseek-chat", "claude-sonnet"}
    files = sorted(run.secrets.glob("import-*"))
    assert [path.read_text() for path in files if path.read_text() == "sk-vendor-one"] and len(files) == 2
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert json.loads(run("alias", "list", "--json")) == {"gpt-4": "chat-one"}
    keys = {key["name"]: key for key in json.loads(run("key", "list", "--subscriber", PHONE, "--json"))}
    assert keys.keys() == {"team key", "ann's", "wider than its team"}
    assert keys["ann's"]["cap_tokens"] == 1500 and keys["team key"]["cap_tokens"] is None
    assert keys["team key"]["models"] == keys["wider than its team"]["models"] == ["chat-one"]
    members = json.loads(run("member", "list", "--subscriber", PHONE, "--json"))
    assert "Research (litellm " in json.dumps(members)
    why = reasons(said)
    assert "would be wider" in why["left_out", "key routes"] and "spent" in why["left_out", "key spent"]
    assert why["left_out", "key of a blocked team"] == "its team is blocked"
    assert "not among the tables" in why["left_out", "key stranger's"]
    assert (
        "no model" in why["left_out", "key beside its team"]
        and "organization_id" in why["left_out", "key of an organization"]
    )
    assert "its own" in why["left_out", "deployment of azure-one (azure/gpt-4o)"]
    assert any("private" in reason for reason in why.values()) and any(
        "ANTHROPIC_API_KEY" in reason for reason in why.values()
    )
    again = json.loads(run("import", "litellm", *litellm, "--tokens-per-usd", "1000", "--yes", "--json"))
    assert again["counts"]["taken"] == 0 and again["counts"]["there_already"] == 10
    assert len(json.loads(run("key", "list", "--subscriber", PHONE, "--json"))) == 3


def test_a_budget_that_is_no_number_of_tokens_keeps_its_key_out(run, litellm):
    run("subscriber", "create", "--phone", PHONE)
    said = json.loads(run("import", "litellm", *litellm, "--yes", "--json"))
    assert "--tokens-per-usd" in reasons(said)["left_out", "team t1"]
    assert "left out" in reasons(said)["left_out", "key team key"]
    assert json.loads(run("key", "list", "--subscriber", PHONE, "--json")) == []


def test_reissued_keys_are_written_to_a_file_of_mode_600_once(run, litellm, tmp_path):
    run("subscriber", "create", "--phone", PHONE)
    new = tmp_path / "new-keys"
    args = (*litellm, "--tokens-per-usd", "1000", "--yes", "--reissue-to")
    assert "twk_" not in run("import", "litellm", *args, str(new))
    assert new.read_text().count("twk_") == 3 and stat.S_IMODE(new.stat().st_mode) == 0o600
    before = new.read_text()
    run("import", "litellm", *args, str(new), code=2)
    assert new.read_text() == before
    run("import", "litellm", *args, str(tmp_path / "second"))
    assert not (tmp_path / "second").exists()


def test_a_credential_of_another_content_is_not_used_and_nothing_is_made(run, litellm):
    names = [
        f["what"].split()[1]
        for f in json.loads(run("import", "litellm", litellm[0], "--dry-run", "--json"))["findings"]
        if f["outcome"] == "taken" and f["what"].startswith("deployment")
    ]
    other = run.secrets / f"import-{names[1]}"
    other.write_text("another")
    run("import", "litellm", litellm[0], "--yes", code=1)
    assert json.loads(run("deployment", "list", "--json")) == [] and list(run.secrets.glob("import-*")) == [
        other
    ]
    assert other.read_text() == "another"


@pytest.mark.parametrize("content", ["", "{", "model_list: 3", "a: &a [*a]", "[" * 5000])
def test_a_faulty_config_is_refused(run, tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert "Traceback" not in run("import", "litellm", str(path), "--yes", code=1)


def test_a_password_in_a_url_is_refused(run, litellm):
    run("import", "litellm", litellm[0], "--database", "postgresql://u:secret@localhost/x", "--yes", code=1)
    run("import", "litellm", litellm[0], "--database", "mysql://localhost/x", "--yes", code=1)


CHANNELS = """
CREATE TABLE channels (id integer PRIMARY KEY, type integer, key text, status integer, name text, weight integer, base_url text, models text,
                       "group" text, model_mapping text, priority integer, param_override text);
INSERT INTO channels VALUES
    (1, 43, 'sk-deep-1' || char(10) || 'sk-deep-2', 1, 'deep', 0, '', 'deepseek-chat,alias-one', 'default', '{"alias-one": "deepseek-reasoner"}', 5, NULL),
    (2, 26, 'zhipu.key', 2, 'glm', 0, NULL, 'glm-5', 'default', '', 0, '{"a": 1}'),
    (3, 41, 'x', 1, 'vertex', 0, '', 'gemini', 'default', '', 0, NULL);
CREATE TABLE users (id integer PRIMARY KEY, username text, display_name text, quota integer, status integer, "group" text, deleted_at text);
INSERT INTO users VALUES (1, 'root', 'Root', 1000000, 1, 'vip', NULL), (2, 'gone', '', 5, 2, 'default', NULL);
CREATE TABLE tokens (id integer PRIMARY KEY, user_id integer, key text, status integer, name text, expired_time integer, remain_quota integer,
                     unlimited_quota numeric, model_limits_enabled numeric, model_limits text, allow_ips text, "group" text, deleted_at text);
CREATE VIEW abilities AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n;
"""
TOKENS = [
    (1, 1, "A" * 48, 1, "whole", -1, 0, 1, 0, "", None, "", None),
    (2, 1, "B" * 48, 1, "part", 4102444800, 250_000, 0, 1, "deepseek-chat", "", "", None),
    (3, 1, "C" * 48, 1, "at home", -1, 0, 1, 0, "", "10.0.0.1", "", None),
    (4, 1, "D" * 48, 3, "expired", 1, 0, 1, 0, "", None, "", None),
    (5, 2, "E" * 48, 1, "of one who is gone", -1, 0, 1, 0, "", None, "", None),
    (6, 1, "F" * 48, 1, "empty", -1, 0, 0, 0, "", None, "", None),
]  # fmt: skip


def sqlite_file(path, more=""):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(CHANNELS + more)
        connection.executemany(f"INSERT INTO tokens VALUES ({','.join('?' * 13)})", TOKENS)
    return str(path)


def test_new_api_is_read_from_its_sqlite_file(run, tmp_path):
    run("subscriber", "create", "--phone", PHONE)
    args = (
        "new-api",
        sqlite_file(tmp_path / "one-api.db"),
        "--subscriber",
        PHONE,
        "--tokens-per-usd",
        "100",
        "--yes",
        "--json",
    )
    said = json.loads(run("import", *args))
    found = json.loads(run("deployment", "list", "--json"))
    assert sorted((d["model"], d["upstream_model"], d["draining"]) for d in found) == [
        ("alias-one", "deepseek-reasoner", False), ("alias-one", "deepseek-reasoner", False), ("deepseek-chat", "deepseek-chat", False),
        ("deepseek-chat", "deepseek-chat", False), ("glm-5", "glm-5", True),
    ]  # fmt: skip
    assert {d["base_url"] for d in found} == {
        "https://api.deepseek.com",
        "https://open.bigmodel.cn/api/paas/v4",
    }
    assert sorted(path.read_text() for path in run.secrets.glob("import-*")) == ["sk-deep-1"] * 2 + [
        "sk-deep-2"
    ] * 2 + ["zhipu.key"]
    keys = {key["name"]: key for key in json.loads(run("key", "list", "--subscriber", PHONE, "--json"))}
    assert keys.keys() == {"whole", "part"}
    assert (keys["part"]["cap_tokens"], keys["part"]["models"]) == (50, ["deepseek-chat"])
    assert keys["part"]["expires_at"].startswith("2100-01-01")
    member = next(
        m
        for m in json.loads(run("member", "list", "--subscriber", PHONE, "--json"))
        if "Root" in json.dumps(m)
    )
    assert "200" in json.dumps(member)
    why = reasons(said)
    assert "wider" in why["left_out", "key at home"] and "spent" in why["left_out", "key empty"]
    assert "left out" in why["left_out", "key of one who is gone"] and ("left_out", "channel 3 vertex") in why
    assert json.loads(run("import", *args))["counts"]["taken"] == 0


def test_one_api_is_read_from_csv_files_with_its_own_numbers_of_channels(run, tmp_path):
    (tmp_path / "channels.csv").write_text(
        "id,type,key,status,name,base_url,models,model_mapping\n1,36,sk-x,1,deep,,deepseek-chat,\n2,43,k,1,other,,m,\n"
    )
    (tmp_path / "tokens.csv").write_text(
        f"id,user_id,key,status,name,expired_time,remain_quota,unlimited_quota,models,subnet\n1,1,{'A' * 48},1,csv,-1,0,true,,\n"
    )
    (tmp_path / "users.csv").write_text(
        "id,username,display_name,quota,status,group\n1,root,,500000,1,default\n"
    )
    run("subscriber", "create", "--phone", PHONE)
    run("import", "one-api", str(tmp_path), "--subscriber", PHONE, "--without-budgets", "--yes")
    assert [d["base_url"] for d in json.loads(run("deployment", "list", "--json"))] == [
        "https://api.deepseek.com"
    ]
    assert [key["name"] for key in json.loads(run("key", "list", "--subscriber", PHONE, "--json"))] == ["csv"]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"SQLite format 3\0 and no more", b'{"tokens": 3}', b"\xff\xfe"]
)
def test_a_faulty_database_is_refused(run, tmp_path, content):
    path = tmp_path / "one-api.db"
    path.write_bytes(content)
    run("import", "new-api", str(path), "--yes", code=1)


def test_a_view_in_the_place_of_a_table_is_not_read(run, tmp_path):
    path = tmp_path / "hostile.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE VIEW tokens AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT x FROM n"
        )
    run("import", "new-api", str(path), "--yes", code=1)


def test_tables_are_read_from_postgresql(run, database_url, owner):
    owner.execute("CREATE TABLE channels (id int, type int, key text, status int, name text, models text)")
    owner.execute("INSERT INTO channels VALUES (1, 14, 'sk-a', 1, 'claude', 'claude-x')")
    owner.execute("GRANT SELECT ON channels TO PUBLIC")
    if urlsplit(database_url).password is not None:
        pytest.skip("the role of this server has a password, and no URL of an import has one")
    run("import", "new-api", database_url, "--yes")
    assert [d["protocols"] for d in json.loads(run("deployment", "list", "--json"))] == [["messages"]]
