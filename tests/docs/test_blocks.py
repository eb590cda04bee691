"""No document has a command block that nothing runs, and CONTRIBUTING's do what they say."""

import pytest

from tests.support.prompt import Prompt, blocks, indented
from tests.support.server import ROOT
from tests.test_tidy import tracked

# Documents with command blocks, and what runs them.
RUN = {
    "README.md": "tests/docs/test_readme.py",
    "CONTRIBUTING.md": "tests/docs/test_blocks.py",
    "examples/README.md": "tests/docs/test_examples.py",
    "docs/DEVELOPERS.md": "tests/docs/test_developers.py",
    "docs/RUNBOOK.md": "tests/runbook",
    "docs/STAFF.md": "tests/docs/test_staff.py",
    "deploy/README.md": "nothing: they install into a machine; tests/app/test_deploy.py holds them against what is there",
}
# Blocks of CONTRIBUTING that no test runs, by a word in them, each with its reason.
NOT_RUN = {"make demo": "CI runs all three: .ci/run"}


def documents():
    return [path for path in tracked() if path.suffix == ".md"]


def test_every_document_with_commands_is_run():
    found = {
        str(path.relative_to(ROOT)) for path in documents() if path.name != "RUNBOOK.md" and blocks(path)
    }
    assert found <= set(RUN), found - set(RUN)
    assert all(blocks(ROOT / name) for name in RUN if name != "docs/RUNBOOK.md")
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "deploy/README.md"):
        assert indented(ROOT / name) == []


def test_a_block_without_a_language_and_an_indented_one_are_found(tmp_path):
    path = tmp_path / "x.md"
    path.write_text("# A\n```\ntokenworks init\n```\n")
    with pytest.raises(AssertionError, match="of the language ''"):
        blocks(path)
    path.write_text("# A\n```sh\ntokenworks init\n")
    with pytest.raises(AssertionError, match="has no end"):
        blocks(path)
    path.write_text("# A\n\n    tokenworks init\n")
    assert len(indented(path)) == 1 and blocks(path) == []


def test_a_prompt_keeps_what_blocks_set_and_stops_at_the_first_that_fails(tmp_path):
    path = ROOT / "README.md"
    block = blocks(path)[0]
    with Prompt(tmp_path, {}) as prompt:
        prompt.run(block._replace(code="export A=1 B=2\ncd /\n"))
        assert prompt.run(block._replace(code='echo "$A$B $PWD"\n')) == "12 /\n"
        assert (
            prompt.run(block._replace(code="import os\nprint(os.environ['A'])\n", language="python")) == "1\n"
        )
        with pytest.raises(AssertionError, match="failed:\nbefore\n"):
            prompt.run(block._replace(code="echo before\nfalse | true\necho after\n"))


@pytest.mark.nightly
def test_contributing_does_what_it_says(tmp_path):
    for name in ("src", "tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    start, one, written = blocks(ROOT / "CONTRIBUTING.md")
    (reason,) = NOT_RUN
    assert reason in start.code
    said = (ROOT / ".ci/run").read_text()
    for line in start.code.splitlines():
        assert line.split("#")[0].strip() in said
    with Prompt(tmp_path, {}, {".venv/bin/python": "python"}) as prompt:
        assert "[100%]" in prompt.run(one)
        prompt.run(written)
    assert len(written.code.splitlines()) == len(list((tmp_path / "docs").iterdir())) == 3
    for path in (tmp_path / "docs").iterdir():
        assert path.read_text() == (ROOT / "docs" / path.name).read_text(), (
            f"{path.name} is not what the code says"
        )
