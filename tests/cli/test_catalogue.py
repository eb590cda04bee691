"""The commands of the catalogue, quotes and failed jobs, as an operator runs them."""

import json
from uuid import uuid4

from tests.catalog.test_file import GOOD


def test_a_tariff_is_looked_at_loaded_and_moved_to(server, tmp_path):
    def run(*args):
        return json.loads(server.cli(*args, "--json").stdout)

    path, dearer = tmp_path / "plan.yaml", tmp_path / "dearer.yaml"
    path.write_text(GOOD.replace("id: plan", "id: test-tariff"), encoding="utf-8")
    dearer.write_text(path.read_text().replace('"9.9"', '"12"'), encoding="utf-8")
    broken = tmp_path / "broken.yaml"
    broken.write_text(path.read_text().replace('"9.9"', "9.9").replace("quantity: 1000", "quantity: 1_000"))
    refused = server.cli("offering", "load", str(broken), "--dry-run", check=False)
    assert refused.returncode == 1
    assert ":15: " in refused.stderr and ":19: " in refused.stderr
    dry = server.cli("offering", "load", str(path), "--dry-run").stdout
    assert "test-tariff (new):" in dry and "plan Plan: 9.9 CNY, 1,000 tokens" in dry
    assert not any(o["id"] == "test-tariff" for o in run("offering", "list"))
    assert run("offering", "load", str(path))["new_versions"] == 1
    assert "Nothing would change." in server.cli("offering", "load", str(path), "--dry-run").stdout
    assert "price: 9.9 becomes 12" in server.cli("offering", "diff", str(dearer)).stdout
    assert "price: 9.9 becomes 12" in server.cli("offering", "diff", str(path), str(dearer)).stdout
    assert "A part of a cycle: its share by time" in server.cli("offering", "show", "test-tariff").stdout
    who = ("--subscriber", "+8613833334444")
    run("subscriber", "create", "--phone", "+8613833334444")
    quote = run("order", "quote", *who, "--offering", "test-tariff")
    assert (quote["renewal_nano"], quote["proration"], quote["at_most"]) == (9_900_000_000, "prorate", False)
    assert run("order", "list", *who) == []
    order = run("order", "place", *who, "--offering", "test-tariff")
    product = order["product_id"]
    assert "come back" in server.cli("order", "quote", "--action", "cancel", "--product", product).stdout
    usage = server.cli("order", "quote", "--action", "change", "--product", product, check=False)
    assert usage.returncode == 2
    run("offering", "load", str(dearer))
    old, new = [*run("offering", "sold", "--offering", "test-tariff"), run("offering", "show", "test-tariff")]
    assert (old["products"], old["on_sale"]) == (1, False)
    versions = (old["offering_version"], new["offering_version"])
    assert "price: 9.9 becomes 12" in server.cli("offering", "diff", *versions).stdout
    assert run("offering", "sold", "--version", versions[0])[0]["product_id"] == product
    move = ("offering", "move", "--offering", "test-tariff", "--notice-days", "0")
    assert run(*move, "--dry-run")["moved"] == 1
    assert run("offering", "sold", "--offering", "test-tariff")[0]["moving"] == 0
    assert run(*move)["moved"] == 1
    assert run("offering", "sold", "--offering", "test-tariff")[0]["moving"] == 1
    assert json.loads(server.cli("audit", "--json").stdout)[0]["action"] == "offering move"
    assert "come back" in server.cli("order", "cancel", "--product", product).stdout


def test_a_failed_job_is_listed_and_released(server):
    ref = uuid4()
    server.services.failed_jobs.note("bill", ref, ValueError("a fault"))
    (listed,) = json.loads(server.cli("job", "list", "--json").stdout)
    assert (listed["job"], listed["ref"], listed["state"]) == ("bill", str(ref), "retrying")
    assert "ValueError: a fault" in " ".join(server.cli("job", "list").stdout.split())
    assert "is tried again" in server.cli("job", "release", "bill", str(ref)).stdout
    assert json.loads(server.cli("job", "list", "--json").stdout) == []
    again = server.cli("job", "release", "bill", str(ref), check=False)
    assert again.returncode == 1 and "there is no failed job" in again.stderr
