"""The table of commands says what the commands themselves say."""

import ast
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import tokenworks.cli
from tokenworks.cli.commands import COMMANDS, NOUNS, WITH_OPTIONS
from tokenworks.cli.lazy import Noun
from tokenworks.cli.main import cli

FOLDER = Path(tokenworks.cli.__file__).parent
WIDTHS = (20, 45, 60, 70, 90, 300)


def command(path):
    found = cli
    for name in path.split():
        found = found.commands[name]
    return found


@pytest.mark.parametrize("path", [*COMMANDS, *NOUNS])
def test_a_sentence_of_the_table_is_the_commands_own(path):
    said = NOUNS[path] if path in NOUNS else COMMANDS[path][1]
    listed = click.Command(path, help=said)
    for width in WIDTHS:
        assert listed.get_short_help_str(width) == command(path).get_short_help_str(width)


def test_every_command_of_the_files_is_in_the_table():
    """A function that is made a command and not put into the table could not be run."""
    defined = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(one, ast.Call) and ast.unparse(one.func) in {"click.command", "click.group"}
                for one in node.decorator_list
            ):
                defined.add((path.stem, node.name))
    listed = {(file, path.replace(" ", "_").replace("-", "_")) for path, (file, _) in COMMANDS.items()}
    assert defined == listed | {(name, name) for name in WITH_OPTIONS} | {("main", "cli")}


def test_a_command_has_the_name_by_which_it_is_found():
    for path in COMMANDS:
        assert command(path).name == path.split()[-1]


def test_a_word_that_is_no_command_is_refused():
    for words in (["metamorphose"], ["order", "metamorphose"], ["bill", "dispute", "metamorphose"]):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 2 and "No such command 'metamorphose'" in done.output


def test_the_groups_are_of_one_kind():
    for path in ["", *NOUNS, *WITH_OPTIONS]:
        found = command(path)
        assert isinstance(found, Noun) and found.path == path
