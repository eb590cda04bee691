"""axe-core, which looks for what keeps a person from using a page (WCAG 2.2 A and AA, and its best practices)."""

import functools
import hashlib
import importlib.util
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "4.14.1"
INTEGRITY = "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
FILE = "axe.min.js"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
CACHE = Path.home() / ".cache/tokenworks"


def vendoring():
    """The script that fetches packages of npm and compares them with their pins."""
    spec = importlib.util.spec_from_file_location("_vendor_scripts", ROOT / "scripts/vendor_scripts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def axe():
    """The script as text, from the cache or from npm. A test that needs it is skipped where neither has it."""
    kept = CACHE / f"axe-core-{VERSION}.min.js"
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == SHA256:
        return kept.read_text()
    vendor = vendoring()
    package = vendor.Pinned("axe-core", VERSION, INTEGRITY, {FILE: (FILE, SHA256)})
    try:
        with tempfile.TemporaryDirectory() as folder:
            content = vendor.contents(package, vendor.tarball(package, Path(folder)))[FILE]
    except vendor.NotVendored as why:
        pytest.skip(f"axe-core {VERSION} is not here: {why}")
    CACHE.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return content.decode()


def found_by_axe(page):
    """What axe finds on a page: (rule, what is wrong, the first elements)."""
    # The page's policy admits no script of ours; the browser's own console does.
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe())
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (
            found["id"],
            found["help"],
            [
                node["html"][:200] + " | " + node.get("failureSummary", "")[:300]
                for node in found["nodes"][:3]
            ],
        )
        for found in result["violations"]
    ]
