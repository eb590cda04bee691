from pathlib import Path

from tokenworks.factory import load_profile, profile_names
from tokenworks.factory.facts.docs import facts_text, reference

ROOT = Path(__file__).parents[3]


def test_the_document_is_what_the_profiles_say():
    assert (ROOT / "docs/VENDORS.md").read_text() == reference()


def test_a_fact_that_is_not_known_is_not_told():
    assert dict(facts_text(load_profile("baichuan"))) == {
        "credential": "authorization: Bearer KEY (messages: x-api-key as well)",
        "reasoning switch": "effort",
    }
    for name in profile_names():
        assert all(fact and value for fact, value in facts_text(load_profile(name)))
