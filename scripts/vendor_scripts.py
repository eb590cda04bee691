"""Copies the browser's scripts into the package: `python scripts/vendor_scripts.py`, or `--check`, which writes nothing.

`src/tokenworks/pages/static/vendor/vendor.toml` pins each npm package by version and by the SHA-512 of its tarball, and each copied file
by its SHA-256. A package is fetched with `npm pack`, so the registry is npm's own setting. A tarball or a file that is not as pinned ends
the script before anything is written. To renew a package: change its version and integrity (`npm view NAME@VERSION dist.integrity`),
run the script with `--pin`, which writes the new hashes of its files, and read the difference.
"""

import argparse
import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
VENDOR: Final = ROOT / "src/tokenworks/pages/static/vendor"
LIST: Final = "vendor.toml"
NPM_TIMEOUT_S: Final = 300
FILE_BYTES_MAX: Final = 2_000_000


class NotVendored(Exception):
    """Why a package is not as it is pinned, or could not be fetched."""


class Pinned(NamedTuple):
    """A package of the list. `files`: path in the tarball -> (name in the folder, SHA-256)."""

    name: str
    version: str
    integrity: str
    files: dict[str, tuple[str, str]]


def pinned_in(path: Path) -> list[Pinned]:
    table = tomllib.loads(path.read_text())
    return [
        Pinned(
            package["name"],
            package["version"],
            package["integrity"],
            {file["from"]: (file["to"], file["sha256"]) for file in package["files"]},
        )
        for package in table["package"]
    ]


def tarball(package: Pinned, folder: Path) -> Path:
    """The tarball of a package, fetched into `folder`. Raises `NotVendored` if npm is missing or the tarball is not the pinned one."""
    npm = shutil.which("npm")
    if npm is None:
        raise NotVendored("npm is not here (Debian: apt-get install npm)")
    done = subprocess.run(
        [npm, "pack", "--silent", f"{package.name}@{package.version}"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=NPM_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode:
        raise NotVendored(f"npm pack {package.name}@{package.version}: {done.stderr.strip()[:500]}")
    found = folder / done.stdout.strip().splitlines()[-1]
    digest = base64.b64encode(hashlib.sha512(found.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        raise NotVendored(f"{package.name}@{package.version} has sha512-{digest}, not {package.integrity}")
    return found


def contents(package: Pinned, found: Path) -> dict[str, bytes]:
    """The listed files of a tarball, by their path in it."""
    wanted = {}
    with tarfile.open(found) as archive:
        for path in package.files:
            member = archive.getmember(f"package/{path}")
            if not member.isfile() or member.size > FILE_BYTES_MAX:
                raise NotVendored(f"{path} of {package.name} is no file of at most {FILE_BYTES_MAX} bytes")
            reader = archive.extractfile(member)
            assert reader is not None
            wanted[path] = reader.read()
    return wanted


def vendor(*, write: bool, pin: bool) -> None:
    text = (VENDOR / LIST).read_text()
    made: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for package in pinned_in(VENDOR / LIST):
            for path, content in contents(package, tarball(package, Path(folder))).items():
                name, sha256 = package.files[path]
                digest = hashlib.sha256(content).hexdigest()
                if digest != sha256 and not pin:
                    raise NotVendored(f"{path} of {package.name} has SHA-256 {digest}, not {sha256}")
                text = re.sub(rf'(to = "{re.escape(name)}", sha256 = ")[^"]*', rf"\g<1>{digest}", text)
                made[name] = content
    if pin:
        (VENDOR / LIST).write_text(text)
    for name, content in made.items():
        target = VENDOR / name
        if write:
            target.write_bytes(content)
        elif not target.is_file() or target.read_bytes() != content:
            raise NotVendored(
                f"{target.relative_to(ROOT)} is not the package's file: run this script without --check"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument(
        "--pin", action="store_true", help="write the hashes of a new version's files into the list"
    )
    chosen = parser.parse_args()
    try:
        vendor(write=not chosen.check, pin=chosen.pin)
    except NotVendored as why:
        print(f"vendor_scripts: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
