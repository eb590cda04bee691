"""What loading a file would change, in words."""

from datetime import timedelta

from tests.catalog.test_file import GOOD, versions
from tokenworks.catalog import card_differences, offering_differences, read_catalogue, seed_catalogue


def read(text):
    return read_catalogue(text, "test.yaml")


def changes(services, text):
    return {c.offering_id: c for c in services.offerings.compare(read(text))}


def test_what_is_new_what_changes_and_what_stays(services):
    new = changes(services, GOOD)["plan"]
    assert (new.kind, new.words) == ("new", ("plan Plan: 9.9 CNY, 1,000 tokens",))
    services.offerings.load(read(GOOD))
    assert changes(services, GOOD)["plan"].kind == "same"
    text = (
        GOOD.replace('price: "9.9"', 'price: "12"\n    first_price: "1"')
        .replace("quantity: 1000}", "quantity: 2500}")
        .replace("cycle: calendar_month", "cycle: calendar_month\n    proration: full")
        .replace("kind: plan", "kind: plan\n    service: {weight: 2, priority: true}")
        .replace("output: 1000", "output: 2000")
    )
    changed = changes(services, text)["plan"]
    assert changed.kind == "changed"
    assert set(changed.words) == {
        "price: 9.9 becomes 12",
        "first_price: nothing becomes 1",
        "proration: prorate becomes full",
        "buckets: unit token quantity 1,000 priority 10 becomes unit token quantity 2,500 priority 10",
        "service.weight: 1 becomes 2",
        "service.priority: no becomes yes",
        "rate card flat, rates.standard.output: 1,000 becomes 2,000",
        "rate card flat, rates.standard.audio_output: 1,000 becomes 2,000",
    }
    # Nothing was loaded by asking.
    assert services.offerings.on_sale("plan").offering.price == "9.9"


def test_versions_to_come_are_compared_with_those_before_them(services, clock):
    change = clock.now() + timedelta(days=10)
    text = versions(("9.9", None, change.isoformat()), ("11", change.isoformat(), None))
    services.offerings.load(read(GOOD))
    first, second = services.offerings.compare(read(text))
    assert first.begins_at is None and first.words[0].startswith("valid_until: nothing becomes ")
    assert second.begins_at == change and "price: 9.9 becomes 11" in second.words


def test_the_shipped_catalogue_is_what_is_on_sale(services):
    assert {change.kind for change in services.offerings.compare(seed_catalogue())} == {"same"}


def test_two_versions_and_two_cards():
    before, after = (
        read(GOOD),
        read(GOOD.replace('"9.9"', '"10"').replace('models: ["*"]', 'models: ["glm*", "*"]')),
    )
    assert offering_differences(before.offerings[0], after.offerings[0]) == ["price: 9.9 becomes 10"]
    assert card_differences(before.rate_cards[0], after.rate_cards[0]) == [
        "rate card flat, rates.standard.models: * becomes glm*; *"
    ]
    assert offering_differences(before.offerings[0], before.offerings[0]) == []
