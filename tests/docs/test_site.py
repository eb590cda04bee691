"""The documentation as a site: laid out as it lies here, and built with dead links refused."""

import os
import runpy
import shutil
import subprocess

import pytest
import yaml

from tests.support.server import ROOT

MKDOCS = ROOT / ".venv-docs/bin/mkdocs"


@pytest.fixture
def source(tmp_path):
    runpy.run_path(str(ROOT / "scripts/site"))["stage"](tmp_path / "source")
    return tmp_path / "source"


def test_what_the_navigation_names_is_laid_out(source):
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def pages(part):
        if isinstance(part, str):
            return [part]
        return [page for one in (part.values() if isinstance(part, dict) else part) for page in pages(one)]

    assert [page for page in pages(nav) if not (source / page).is_file()] == []
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= {
        page.rpartition("/")[2] for page in pages(nav)
    }
    # What a page links to that is no page, and the indices of folders.
    assert (source / "examples/agent.py").is_file() and (source / "docs/decisions/index.md").is_file()
    assert "](docs/decisions/index.md)" in (source / "README.md").read_text()


def test_it_builds_and_a_dead_link_or_anchor_is_refused(source, tmp_path):
    if not MKDOCS.exists():
        pytest.skip("mkdocs is not here: scripts/setup-docs")
    settings = (
        (ROOT / "mkdocs.yml")
        .read_text()
        .replace("build/site-source", str(source))
        .replace("build/site\n", f"{tmp_path}/site\n")
    )
    (tmp_path / "mkdocs.yml").write_text(settings)

    def build():
        return subprocess.run(
            [MKDOCS, "build", "--strict", "-f", tmp_path / "mkdocs.yml"], capture_output=True, text=True,
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        )  # fmt: skip

    done = build()
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/index.html").read_text()
    # Nothing is loaded from elsewhere.
    assert 'src="http' not in page and "fonts.g" not in page
    whole = (source / "SECURITY.md").read_text()
    dead = ("docs/GONE.md", "docs/RUNBOOK.md#gone", "gone/")
    (source / "SECURITY.md").write_text(whole + "\n".join(f"\n[a]({link})" for link in dead) + "\n")
    done = build()
    said = [line for line in done.stderr.splitlines() if line.startswith("WARNING") and "SECURITY.md" in line]
    assert done.returncode != 0 and len(said) == len(dead)
    assert all(any(link in line for line in said) for link in dead), said
    shutil.rmtree(tmp_path / "site")
