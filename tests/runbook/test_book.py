"""Every command block of the runbook is run by a scenario, and every command that the docs name is there with its options."""

import importlib
import re
from pathlib import Path

import click
import pytest

from tests.runbook.book import BEGINNING, NOT_RUN, SCENARIOS, WITHOUT_BLOCKS, commands, pages
from tests.support.server import ROOT
from tokenworks.cli.main import cli

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def scenarios():
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.runbook.{path.stem}")
    return SCENARIOS


def test_every_block_has_a_scenario_and_every_scenario_a_page(scenarios):
    there = pages()
    without = [str(block) for title, blocks in there.items() for block in blocks if title not in scenarios]
    assert not without, "blocks without a scenario in tests/runbook:\n" + "\n".join(without)
    gone = {title: test for title, test in scenarios.items() if not there.get(title)}
    assert not gone, f"scenarios of pages that are gone, or have no block: {gone}"


def test_a_page_without_a_block_says_why():
    there = pages()
    empty = {title for title, blocks in there.items() if not blocks} - {BEGINNING}
    assert empty == set(WITHOUT_BLOCKS), "pages without a block, and those that are said to have none"
    assert all(WITHOUT_BLOCKS.values())


def test_blocks_are_fenced_and_name_their_language():
    text = (ROOT / "docs/RUNBOOK.md").read_text()
    fences = re.findall(r"^ *```.*$", text, re.MULTILINE)
    opened = {"```sh", "```text"}
    assert set(fences) == {*opened, "```"} and sum(fence in opened for fence in fences) * 2 == len(fences)
    assert not re.search(r"^    \S", text, re.MULTILINE), "an indented block is not run"
    # What a reader has to fill in is a variable.
    for blocks in pages().values():
        for block in blocks:
            assert "…" not in "".join(line for line in block.code.splitlines() if not line.startswith("#")), (
                block
            )


def test_a_block_that_is_not_run_says_why():
    texts = [block for blocks in pages(language="text").values() for block in blocks]
    assert {(block.page, block.code.splitlines()[0]) for block in texts} == set(NOT_RUN)
    assert all(NOT_RUN.values())


# Code in the docs that begins as a command does and is none.
NO_COMMANDS = {"migrate": "the name of init's connections in pg_stat_activity"}


def flaw(words):
    """What is wrong with a command's words, by click's own declarations; None where it could be run."""
    command, path = cli, ["tokenworks"]
    # `command [--option VALUE]`: what may be left out is there, too.
    arguments, words = 0, [word.strip("[]") for word in words]
    if words[0] in NO_COMMANDS:
        return None
    while words:
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            if name in {"--help", "-h"}:
                continue
            found = next((o for o in command.params if name in (*o.opts, *o.secondary_opts)), None)
            if found is None:
                return f"{' '.join(path)} has no {name}"
            if isinstance(found, click.Option) and not found.is_flag and not found.count and "=" not in word:
                if not words:
                    continue  # `--option` alone, in prose
                words.pop(0)
        elif isinstance(command, click.Group):
            if word not in command.commands:
                return f"{' '.join(path)} has no command {word}"
            command, path = command.commands[word], [*path, word]
        else:
            arguments += 1
    taken = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    if arguments > sum(100 if one.nargs < 0 else one.nargs for one in taken):
        return f"{' '.join(path)} takes {len(taken)} arguments, not {arguments}"
    return None


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_commands_of_the_docs_exist_with_their_options(path):
    wrong = [
        f"{path.name}:{line}: {found}" for line, words in commands(path.read_text()) if (found := flaw(words))
    ]
    assert not wrong, "\n".join(wrong)


def test_a_command_that_is_not_there_is_found():
    assert flaw(["grant", "list", "--subscriber", "S"]) is None and flaw(["serve", "--workers", "2"]) is None
    assert "has no command lst" in flaw(["grant", "lst"]) and "has no --of" in flaw(
        ["grant", "list", "--of", "S"]
    )
    assert "takes 1 arguments, not 2" in flaw(["grant", "close", "A", "B"])
    text = 'Run `tokenworks init --plan`, or\n\n    A=1 tokenworks key revoke "$KEY" # it\n```sh\nx "$(tokenworks job list)"\n```\n'
    assert commands(text) == [(1, ["init", "--plan"]), (3, ["key", "revoke", '"$KEY"']), (5, ["job", "list"])]
