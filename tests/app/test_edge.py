"""Every option and argument of every command is checked, and nothing that is stored acts in a terminal."""

import io
import json
import re
from pathlib import Path
from uuid import uuid4

import click
import pytest
from rich.console import Console

from tests.kernel.test_text import BAD
from tokenworks.app import views
from tokenworks.app.edge import FILE_BYTES_MAX, LineType, commands, read_text
from tokenworks.app.logs import _mask
from tokenworks.app.output import json_text, print_table, say
from tokenworks.app.settings import load_settings
from tokenworks.catalog import CatalogueFaulty, read_catalogue
from tokenworks.cli.main import cli
from tokenworks.factory import DeploymentInvalid, make_deployment, make_model
from tokenworks.kernel import Invalid, flaw
from tokenworks.trust import ApiKeyInfo

ROOT = Path(__file__).parents[2]
PARAMS = [
    pytest.param(param, id=f"{command.name}-{param.name}")
    for command in commands(cli)
    for param in command.params
    if not getattr(param, "is_flag", False)
]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u200b"


@pytest.mark.parametrize("param", PARAMS)
def test_no_option_takes_what_no_text_may_have(param):
    assert isinstance(param.type, LineType) or "convert" in vars(param.type), "guard has not seen it"
    with click.Context(cli) as context:
        for text in BAD.values():
            value = text if not getattr(param.type, "lines", False) else text.replace("\n", "\x00")
            with pytest.raises(click.BadParameter) as refused:
                param.type.convert(value, param, context)
            assert flaw(refused.value.message) is None, "the refusal itself harms nobody"
        with pytest.raises(click.BadParameter):
            param.type.convert("x" * 100_001, param, context)


@pytest.mark.parametrize(
    "param", [p for p in PARAMS if not isinstance(p.values[0].type, LineType | click.Path | click.Choice)]
)
def test_no_number_id_or_date_has_other_scripts_digits(param):
    with click.Context(cli) as context:
        for text in ("١٢", "１２", "२"):
            with pytest.raises(click.BadParameter):
                param.type.convert(text, param, context)


def test_a_prompt_may_have_several_lines():
    (prompt,) = [p.values[0] for p in PARAMS if p.values[0].name == "prompt"]
    assert prompt.type.convert("one\ntwo\tthree", prompt, None) == "one\ntwo\tthree"


def test_commands_print_by_say_alone():
    """`click.echo` and `print` write what they are given; so does a console that reads markup."""
    for path in (*(ROOT / "src/tokenworks/app").glob("*.py"), *(ROOT / "src/tokenworks/cli").glob("*.py")):
        if path.name in {"output.py", "demo.py", "openapi.py", "reference.py", "model_server.py"}:
            continue
        assert not re.search(r"click\.echo\(|(?<![\w.])print\(|click\.secho\(", path.read_text()), path
    prints = re.findall(
        r"console\.print\((.*)", "".join(p.read_text() for p in (ROOT / "src/tokenworks/cli").glob("*.py"))
    )
    assert prints == []


def test_a_table_shows_markup_and_escapes_as_text():
    out = io.StringIO()
    rows = [("[red]x[/red]", f"a{ESCAPES}b", "[link=http://e]y[/link]", ":smile:", None, 5)]
    console = Console(file=out, width=200, force_terminal=True, color_system="standard")
    print_table(f"T{ESCAPES}", ["a", "b", "c", "d", "e", "f"], rows, to=console)
    # What rich itself writes: styles. Nothing else begins with an escape.
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert flaw(text, lines=True) is None
    for shown in (
        "[red]x[/red]",
        "[link=http://e]y[/link]",
        ":smile:",
        "a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202e\\u200bb",
    ):
        assert shown in text


def test_what_is_said_and_json_are_harmless_and_json_is_exact(capsys):
    say(f"name {ESCAPES}\nnext")
    out = capsys.readouterr().out
    assert flaw(out, lines=True) is None and out.endswith("\nnext\n")
    value = {"name": f"王{ESCAPES}\x7f\n\u2028\U000e0041", "list": ["\ud800"]}
    text = json_text(value)
    assert flaw(text, lines=True) is None and "王" in text and json.loads(text) == value


def test_a_log_line_is_one_line_and_acts_nowhere():
    event = _mask(None, "info", {"event": "x", "model": f"m{ESCAPES}\nforged", "exception": "a\nb\x1b[2J"})
    assert flaw(event["model"]) is None and event["exception"] == "a\nb\\x1b[2J"


@pytest.mark.parametrize("text", [t for t in BAD.values() if "\n" not in t], ids=ascii)
def test_settings_catalogues_deployments_and_models_take_none_of_it(text):
    with pytest.raises(Invalid):
        load_settings({}, {"TOKENWORKS_OPERATOR_NAME": f"a{text}"})
    if "\ud800" not in text:
        faulty = "catalogue: test\nrate_cards: []\nofferings:\n  - name: " + json.dumps(f"a{text}b")
        with pytest.raises(CatalogueFaulty, match=r"(?m)^f:4: a text "):
            read_catalogue(faulty, "f")
    with pytest.raises(DeploymentInvalid):
        make_deployment(
            name="a",
            model="m",
            upstream_model=f"a{text}",
            base_url="https://example.com",
            protocols=("chat",),
        )
    with pytest.raises(DeploymentInvalid):
        make_model(name="m", filing_no=f"a{text}")


def test_a_file_is_utf_8_with_or_without_a_mark_and_of_bounded_size(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"\xef\xbb\xbfA|x")
    assert read_text(path) == "A|x"
    path.write_bytes(b"ok\xff")
    with pytest.raises(Invalid, match="not UTF-8 at byte 2"):
        read_text(path)
    with path.open("wb") as out:
        out.truncate(FILE_BYTES_MAX + 1)
    with pytest.raises(Invalid, match="larger than"):
        read_text(path)


def test_the_reason_of_a_refusal_is_said_without_escapes(services, tmp_path):
    from tests.support.server import in_process

    done = in_process(["--data-dir", str(tmp_path), "bill", "show", f"no{ESCAPES}"], {})
    assert (
        done.returncode == 2 and flaw(done.stderr, lines=True) is None and "control character" in done.stderr
    )
    done = in_process(["--data-dir", str(tmp_path), f"bi{ESCAPES}ll"], {})
    assert done.returncode == 2 and flaw(done.stderr, lines=True) is None


def test_many_keys_with_long_lists_are_listed_a_page_at_a_time(services, capsys):
    """A table of 10 000 keys with 200 long names each was 400 MB that a terminal's columns were folded to."""
    subscriber = services.subscriptions.register("+8613800000001")
    owner_id = services.subscriptions.owner_of(subscriber)
    first, _ = services.keys.issue(account_id=subscriber.account_id, member_id=owner_id, name="first")
    services.connection.execute(
        """INSERT INTO api_key (key_id, account_id, member_id, key_mac, pepper_version, hint, name, models)
           SELECT gen_random_uuid(), account_id, member_id, decode(md5(n::text), 'hex'), 1, 'twk_…', 'key ' || n,
                  (SELECT array_agg(repeat('m', 190) || i) FROM generate_series(1, 200) i)
           FROM api_key, generate_series(1, 10000) n WHERE key_id = %s""",
        (first,),
    )
    page = services.access.keys(subscriber, limit=50)
    count = services.keys.count(subscriber.account_id)
    assert (len(page), count) == (50, 10_001)
    views.print_keys(page, count)
    out = capsys.readouterr().out
    assert "Keys (50 of 10001)" in out and "and 197 more" in out and len(out) < 200_000
    seen = [key.key_id for key in page]
    while page := services.access.keys(subscriber, after=seen[-1], limit=1000):
        seen += [key.key_id for key in page]
    assert len(seen) == len(set(seen)) == 10_001 and seen == sorted(seen)


def test_a_key_lists_at_most_so_many_names_of_such_a_length(services):
    subscriber = services.subscriptions.register("+8613800000001")
    owner_id = services.subscriptions.owner_of(subscriber)
    for models in (["m" * 201], [f"m{n}" for n in range(201)], ["m", "\x1b[2J"], [""], []):
        with pytest.raises(Invalid):
            services.keys.issue(account_id=subscriber.account_id, member_id=owner_id, name="x", models=models)
    services.keys.issue(
        account_id=subscriber.account_id,
        member_id=owner_id,
        name="x",
        models=["auto:fast", "a/b:c", "claude-*"],
    )
    (info,) = services.keys.of_account(subscriber.account_id, {})
    assert isinstance(info, ApiKeyInfo) and info.models == ("auto:fast", "a/b:c", "claude-*")
    assert services.keys.of_account(uuid4(), {}) == []
