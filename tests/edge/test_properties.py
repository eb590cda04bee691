"""For every kind of case random ones: charged + loss with a cause = truth, charged <= what the account had, nothing delivered
unaccounted. A case that fails is printed in the form of a case, so that it can be put into `cases/`.
"""

import os

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.edge.check import Books
from tests.edge.forms import KINDS
from tests.edge.shapes import TOKEN
from tests.edge.strategies import OF_KIND

SEED = int(os.environ.get("EDGE_SEED", "20261127"))
SHOWN_MAX = 3


def driven(bench, kind, examples, batch):
    """Run `examples` batches of random cases of a kind. No shrinking: cases do not depend on each other, a failing one is small."""

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(OF_KIND[kind], min_size=batch, max_size=batch, unique_by=str))
    def run(specs):
        cases = bench.ran([made | {"id": f"{kind}-{number}"} for number, made in enumerate(specs)])
        for case in cases:
            case.wrong += unaccounted(case)
        assert_right(cases)

    print(f"EDGE_SEED={SEED}")
    run()
    assert bench.server.findings() == []


def unaccounted(case):
    """Findings about the sums that hold for every case, whatever it expects."""
    books = Books(case.rows)
    if any(count < 0 for count in books.charged.values()):
        yield f"more is lost than was reported: {books}"
    if books.unnamed:
        yield f"a loss without a cause: {books}"
    # What the client has in its hands, in tokens of the upstream: the marker is four bytes and one token.
    delivered = sum(answer.text.count(TOKEN.strip()) for answer in case.answers if answer.status == 200)
    known = (
        books.charged["output"] + books.charged["reasoning"] + books.lost["output"] + books.lost["reasoning"]
    )
    if delivered > known:
        yield f"{delivered} tokens were delivered and {known} are accounted for: {books}"
    truth = case.spec.get("truth_of_a_hit")
    if truth is not None:
        made = truth * len(case.seen.hits)
        if books.drawn + books.lost_tokens != made:
            yield f"the upstream made {made}; drawn and lost are {books.drawn + books.lost_tokens:g}: {books}"


def assert_right(cases):
    wrong = [case for case in cases if case.wrong]
    said = [
        f"{len(wrong)} of {len(cases)} with EDGE_SEED={SEED}; the first:",
        *(
            yaml.safe_dump([case.spec], allow_unicode=True, width=200) + "# " + "\n# ".join(case.wrong)
            for case in wrong[:SHOWN_MAX]
        ),
    ]
    assert not wrong, "\n".join(said)


@pytest.mark.xdist_group("edge-properties")
@pytest.mark.parametrize("kind", KINDS)
def test_random_cases(bench, kind):
    driven(bench, kind, examples=2, batch=16)


@pytest.mark.nightly
@pytest.mark.xdist_group("edge-properties")
@pytest.mark.parametrize("kind", KINDS)
def test_many_random_cases(bench, kind):
    driven(bench, kind, examples=40, batch=40)
