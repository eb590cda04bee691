"""Every case of `cases/`, each a test; they run beside each other on one server, so that the slow ones wait together."""

from pathlib import Path

import pytest

from tests.edge.forms import KINDS, load

CASES = load()
PUBLIC = next(
    (path for up in (3, 4) if (path := Path(__file__).parents[up] / "shared/cases/gateway").is_dir()),
    Path("shared/cases/gateway"),
)
pytestmark = pytest.mark.xdist_group("edge-cases")


@pytest.fixture(scope="module")
def wrong(request, bench):
    """id -> findings, of the cases that this run asks for."""
    chosen = [
        item.callspec.params["id_"]
        for item in request.session.items
        if item.module is request.module and hasattr(item, "callspec")
    ]
    return bench.results([CASES[id_] for id_ in chosen])


@pytest.mark.parametrize("id_", CASES)
def test_case(wrong, id_):
    assert not wrong[id_], "\n".join(wrong[id_])


def test_every_kind_has_cases_of_its_own_making():
    own = [case["kind"] for case in CASES.values() if case["source"] == "own"]
    assert set(own) == set(KINDS)


def test_no_public_case_is_missing_or_changed():
    if not PUBLIC.is_dir():
        pytest.skip("the public cases are not here: shared/cases/gateway")
    for id_, case in load(PUBLIC).items():
        assert CASES.get(id_) == case, f"{case['kind']}/{id_} is not here as it is there"


def test_nothing_is_left_open_after_all_of_them(wrong, bench):
    assert bench.left_open == {}


def test_the_ledger_balances_after_all_of_them(wrong, bench):
    assert bench.server.findings() == []
