"""Whatever comes in, by our own OpenAPI document and beyond it: never an error of ours, always problem details."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.console.test_roles import Household
from tokenworks.charging import verify
from tokenworks.console import openapi_document

EXAMPLES = 12
_schema = schemathesis.openapi.from_dict(openapi_document())
_operations = [result.ok() for result in _schema.get_all_operations()]


@pytest.fixture
def family(works, spender, signed_in, clock):
    made = Household(works, spender, signed_in, 1)
    works.orders.run_cycles()
    made.headers = {"owner": signed_in(made.subscriber)}
    return made


@pytest.mark.fuzz
def test_no_request_makes_us_fail(client, works, family, staff):
    people = [{}, family.headers["owner"], *staff.values()]
    seen = set()

    for operation in _operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), person=st.sampled_from(people))
        def hit(case, person):
            sent = case.as_transport_kwargs(base_url="http://testserver")
            sent["headers"] = {
                k: v
                for k, v in {**dict(sent.get("headers") or {}), **person}.items()
                if v.isascii() and v.isprintable()
            }
            sent.pop("cookies", None)
            answer = client.request(**sent)
            assert answer.status_code < 500, (operation.label, sent, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", (
                    operation.label,
                    answer.text,
                )
            seen.add(answer.status_code)

        hit()
    assert {200, 400, 401, 403, 404} <= seen
    assert verify(works.connection, works.offerings.rate_cards()) == []
