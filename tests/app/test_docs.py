"""What the docs say is what the code does."""

import re
import subprocess
import sys
from pathlib import Path

from tokenworks.cli.main import cli
from tokenworks.cli.reference import reference
from tokenworks.gateway import CODES

ROOT = Path(__file__).parents[2]


def test_the_reference_is_what_the_code_says():
    assert (ROOT / "docs/REFERENCE.md").read_text() == reference(), "run: make reference"


def test_every_error_that_is_raised_is_documented_and_no_other():
    raised = set()
    for path in (ROOT / "src/tokenworks/gateway").rglob("*.py"):
        raised |= set(re.findall(r'(?:Refusal|HeadError)\(\s*\d{3},\s*"(\w+)"', path.read_text()))
    # Those that the bodies' reader passes by name.
    fields = "".join(
        path.read_text() for path in (ROOT / "src/tokenworks/gateway/protocol/fields").glob("*.py")
    )
    raised |= {
        code
        for code in ("bad_request", "forbidden_link", "invalid_body", "unpriced_field")
        if f'"{code}"' in fields
    }
    assert raised == set(CODES)


def test_commands_of_the_readme_exist():
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/ARCHITECTURE.md").read_text()
    for line in re.findall(r"tokenworks ((?:[a-z]+ ?){1,2})", text):
        words = line.split()
        command = cli
        for word in words:
            if not hasattr(command, "commands"):
                break
            if word not in command.commands:
                assert word in {"is", "recomputes", "it"} or command is not cli, (
                    f"tokenworks {line} is no command"
                )
                break
            command = command.commands[word]


def test_make_help_lists_the_ways_in():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    for target in ("demo", "test", "lint", "bench", "serve"):
        assert f"make {target}" in done.stdout


def test_every_decision_has_its_number_in_order():
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_help_works_without_a_database():
    done = subprocess.run([sys.executable, "-m", "tokenworks", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "ledger" in done.stdout
