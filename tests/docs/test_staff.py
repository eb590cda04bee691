"""The commands of the page on staff, run as it says."""

from tests.support.prompt import Prompt, blocks
from tests.support.server import ROOT, Server

PAGE = ROOT / "docs/STAFF.md"


def test_the_page_does_what_it_says(tmp_path):
    found = {}
    with (
        Server(tmp_path / "host") as server,
        Prompt(tmp_path, server.env | {"TOKENWORKS_DATA_DIR": str(server.data_dir)}) as prompt,
    ):
        for block in blocks(PAGE):
            found[block.section] = prompt.run(block)
        members = {row["name"]: row for row in server.services.identity.staff()}
    assert {name: row["role"] for name, row in members.items()} == {"Li Na": "auditor", "Wang": "operator"}
    assert [name for name, row in members.items() if row["revoked_at"] is not None] == ["Li Na"]
    assert "finance" in found["Accounts and roles"]
    assert "/ops/enrol" in found["A code of an authenticator"]
