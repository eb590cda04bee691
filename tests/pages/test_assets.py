"""Static files: their names change with their content, and those of others are the pinned ones."""

import hashlib
import re

import pytest

from tests.support.axe import ROOT, vendoring
from tokenworks.pages.assets import KEPT_S, address

VENDOR = ROOT / "src/tokenworks/pages/static/vendor"


def test_a_file_is_kept_for_a_year_under_the_name_with_its_hash(client):
    for name in (
        "tokenworks.css",
        "console.js",
        "htmx.js",
        "htmx-sse.js",
        "uplot.js",
        "uplot.css",
        "icon.svg",
    ):
        at = address(name)
        answer = client.get(at)
        assert (
            answer.status_code == 200 and at.split(".")[1] == hashlib.sha256(answer.content).hexdigest()[:16]
        )
        assert answer.headers["cache-control"] == f"public, max-age={KEPT_S}, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        other = client.get(re.sub(r"[0-9a-f]{16}", "0" * 16, at))
        assert other.content == answer.content and other.headers["cache-control"] == "max-age=300"
        assert client.get(f"/static/{name}").headers["cache-control"] == "max-age=300"


@pytest.mark.parametrize(
    "name", ["vendor.toml", "NOTICE", "vendor/htmx.js", "..%2fpage.py", "htmx.0123456789abcdef.css", "x.0123456789abcdef.js", "__init__.py"]
)  # fmt: skip
def test_no_other_file_is_served(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_the_files_of_others_are_the_pinned_ones_with_their_licences():
    found = {}
    notice = (VENDOR / "NOTICE").read_text()
    for package in vendoring().pinned_in(VENDOR / "vendor.toml"):
        assert package.integrity.startswith("sha512-") and f"{package.name} {package.version}" in notice
        for name, sha256 in package.files.values():
            found[name] = sha256
            assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256, name
            assert name in notice
    assert {path.name for path in VENDOR.iterdir()} == {*found, "NOTICE", "vendor.toml"}


def test_a_tarball_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    vendor = vendoring()
    npm = tmp_path / "npm"
    npm.write_text('#!/bin/sh\necho other > "$PWD/x.tgz"; echo x.tgz\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    package = vendor.Pinned("htmx.org", "4.0.1", "sha512-oF7J", {})
    with pytest.raises(vendor.NotVendored, match="has sha512-"):
        vendor.tarball(package, tmp_path)
