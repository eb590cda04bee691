"""docs/CATALOGUE.md has every field, and its example has them, too, and loads."""

import re
from pathlib import Path

import pytest
import yaml

from tokenworks.catalog import Offering, RateCard, read_catalogue
from tokenworks.catalog.catalogue import Catalogue
from tokenworks.catalog.model import BucketSpec, ChargingPolicy, Rate, Rollover, Service

TEXT = (Path(__file__).parents[2] / "docs/CATALOGUE.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1]
MODELS = [Catalogue, RateCard, Rate, Offering, BucketSpec, Rollover, ChargingPolicy, Service]


def keys(value):
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


@pytest.mark.parametrize("model", MODELS)
def test_every_field_is_described_and_in_the_example(model):
    described = set(
        re.findall(r"`([a-z_0-9]+)`", "\n".join(re.findall(r"^\| (`[^|]*) \|", TEXT, re.MULTILINE)))
    )
    fields = set(model.model_fields)
    assert fields <= described, f"not in a table: {fields - described}"
    assert fields <= set(keys(yaml.safe_load(EXAMPLE))), "not in the example"


def test_the_example_loads(services):
    read = read_catalogue(EXAMPLE, "docs/CATALOGUE.md")
    assert services.offerings.load(read) == len(read.offerings)


def test_every_policy_of_proration_is_described():
    row = re.search(r"^\| operation \|.*$", TEXT, re.MULTILINE)[0]
    declared = re.findall(r"`([a-z_]+)`", row)
    assert declared == ["prorate", "full", "free_until_next_cycle"]
