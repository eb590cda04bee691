"""Files of models: their forms, and files that are faulty or hostile."""

import json
import random

import pytest

from tokenworks.factory import ModelsFileFaulty, read_models_file
from tokenworks.factory.facts import model_import
from tokenworks.factory.facts.model_facts import FactsIndex, all_facts, shipped_index

OWN = """
format: tokenworks-models/2
maker: Example
seller: example
models:
- id: example-1
  released: 2026-04-24
  context_tokens: 131072
  input: [text, image]
  tools: true
  vendor_ids: {example: example-1}
  prices:
  - {currency: CNY, region: cn, input: 2, cached_input: 0.2, output: '8'}
"""


def read(data, wanted=None, index=None):
    data = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
    return read_models_file(data, index or shipped_index(), "a file", "2026-11-28", wanted)


def words(file):
    return [f"{problem.where}: {problem.reason}" for problem in file.problems]


def test_our_own_form():
    file = read(OWN)
    assert (file.format, file.entries, file.problems) == ("tokenworks", 1, [])
    facts = file.models["example-1"]
    assert (facts.maker, facts.seller, facts.released, facts.context_tokens) == (
        "Example",
        "example",
        "2026-04-24",
        131072,
    )
    (price,) = facts.prices
    assert (price.input, price.cached_input, price.output) == ("2", "0.2", "8")
    assert (price.source, price.date, facts.sources[0].source) == ("a file", "2026-11-28", "a file")


def test_the_shipped_files_are_of_our_own_form():
    from importlib.resources import files

    for maker in ("deepseek", "tencent"):
        path = files("tokenworks.factory") / "vendors/models" / f"{maker}.yaml"
        file = read(path.read_bytes())
        assert file.problems == [] and file.models
        assert file.models == {name: shipped_index().facts[name] for name in file.models}


def test_litellms_form_by_its_shape():
    file = read(
        {
            "sample_spec": {"litellm_provider": "one of https://docs", "mode": "chat, embedding"},
            "azure/gpt-5": {
                "litellm_provider": "azure",
                "mode": "chat",
                "max_output_tokens": 5,
                "input_cost_per_token": 2e-6,
            },
            "gpt-5": {
                "litellm_provider": "openai",
                "mode": "chat",
                "max_output_tokens": 7,
                "input_cost_per_token": 1e-6,
            },
            "groq/new-model": {"litellm_provider": "groq", "max_input_tokens": 100},
        }
    )
    assert (file.format, file.entries, file.problems) == ("litellm", 3, [])
    gpt = file.models["gpt-5"]
    # The maker's own entry counts; the other seller's price is its own.
    assert gpt.output_tokens_max == 7
    assert {row.seller: row.input for row in gpt.prices} == {None: "1", "azure-openai": "2"}
    assert gpt.vendor_ids == {"azure-openai": "gpt-5", "openai": "gpt-5"}
    assert file.models["new-model"].vendor_ids == {"groq": "new-model"}


def test_openrouters_form_by_its_shape():
    file = read(
        {
            "data": [
                {
                    "id": "deepseek/deepseek-v4-pro",
                    "context_length": 5,
                    "pricing": {"prompt": "0.000001", "completion": "0.000002"},
                }
            ]
        }
    )
    assert (file.format, file.problems) == ("openrouter", [])
    (row,) = file.models["deepseek-v4-pro"].prices
    assert (row.seller, row.currency, row.input, row.output) == ("openrouter", "USD", "1", "2")


def test_a_file_that_was_imported_finds_its_own_models_again():
    """Also two that differ in letter case alone."""
    content = {
        "a/Foo": {"litellm_provider": "a", "max_input_tokens": 5},
        "a/foo": {"litellm_provider": "a", "supports_reasoning": True},
    }
    first = read(content)
    again = read(content, index=FactsIndex(all_facts(first.models.values())))
    assert again.models == first.models and set(first.models) == {"Foo", "foo"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe{}", "not UTF-8"), (b"", "no known form"), (b"[]", "no known form"), (b"{", "can't be read"), (b"a: [", "can't be read"),
        (b"{}", "no known form"), (b'{"models": 5}', "no known form"), (b"3", "no known form"), (b"a: &x [1]\nb: *x", "alias"),
        (b"[" * 100_000, "too deep"), (b"a: " + b"[" * 1_000, "too deep"), (b'{"data": {}}', "no known form"), (b"!!python/object:os.system {}", "can't be read"),
        (b"models: []\n---\nmodels: []", "can't be read"),
    ],
    ids=range(14),
)  # fmt: skip
def test_what_is_no_file_of_models_is_refused(data, reason):
    with pytest.raises(ModelsFileFaulty, match=reason):
        read(data)
    if reason == "no known form":
        for form in model_import.FILE_FORMATS:
            if not (form == "litellm" and data == b"{}") and not (form == "litellm" and data[:1] == b"{"):
                with pytest.raises(ModelsFileFaulty):
                    read(data, form)


def test_sizes_are_limited(monkeypatch):
    monkeypatch.setattr(model_import, "JSON_BYTES_MAX", 100)
    monkeypatch.setattr(model_import, "YAML_BYTES_MAX", 50)
    read(b'{"data": []}' + b" " * 88)
    for data in (b'{"data": []}' + b" " * 89, b"data: []" + b" " * 43):
        with pytest.raises(ModelsFileFaulty, match="bytes"):
            read(data)


def test_what_is_right_of_a_faulty_entry_is_taken_and_the_rest_is_named():
    file = read(
        {
            "models": [
                {"id": "good", "context_tokens": "many", "output_tokens_max": 5, "tools": 1, "colour": "red", "input": ["text", "smell"]},
                {"id": "prices", "prices": [{"currency": "CNY", "region": "cn", "input": "-1"}, {"currency": "CNY", "region": "cn", "input": 3}, 5]},
                {"id": "ids", "vendor_ids": {"a": "x", "B B": "y", "c": 5}},
                {"id": "bad\u0000name"}, {"id": "a b"}, {"id": 5}, {}, "text", {"id": "good", "tools": True},
                {"id": "turned", "name": "\u202egnp.exe"},
            ]
        }
    )  # fmt: skip
    good = file.models["good"]
    assert (good.output_tokens_max, good.context_tokens, good.tools, good.input) == (5, None, None, ())
    assert [row.input for row in file.models["prices"].prices] == ["3"]
    assert file.models["ids"].vendor_ids == {"a": "x"}
    assert file.models["turned"].name is None
    assert set(file.models) == {"good", "prices", "ids", "turned"}
    named = "\n".join(words(file))
    for part in (
        "good: context_tokens", "good: tools", "good: colour", "good: input.1", "prices: prices.0.input", "prices: prices.2", "ids: vendor_ids.B B",
        "ids: vendor_ids.c", "a b: no name of a model", "entry 6", "entry 7", "entry 8: an entry is an object", "good: this id is in the file twice",
        "turned: name",
    ):  # fmt: skip
        assert part in named, named
    assert "\u0000" not in named and "\u202e" not in named and file.problems_total == len(file.problems)


def test_numbers_that_are_not_plain():
    file = read(
        b'{"gpt-5": {"litellm_provider": "openai", "input_cost_per_token": 2.9999999999999999e-07, "output_cost_per_token": NaN,'
        b' "cache_read_input_token_cost": 1e-7, "max_input_tokens": 99999999999999999999999999, "max_output_tokens": 5.5,'
        b' "cache_creation_input_token_cost": 1e99999999999999999999, "output_cost_per_reasoning_token": -Infinity, "input_cost_per_audio_token": -1e-9}}'
    )
    (row,) = file.models["gpt-5"].prices
    assert (row.cached_input, row.input, row.output, row.cache_write, row.reasoning, row.audio_input) == (
        "0.1",
        *[None] * 5,
    )
    assert file.models["gpt-5"].input_tokens_max is None and file.models["gpt-5"].output_tokens_max is None
    assert file.problems_total == 7


def test_names_that_are_there_twice():
    file = read(
        '{"gpt-5": {"litellm_provider": "openai", "max_input_tokens": 1}, "gpt-5": {"litellm_provider": "openai", "max_input_tokens": 2}}'
    )
    assert file.models["gpt-5"].input_tokens_max == 1 and "twice" in words(file)[0]
    file = read("models:\n- id: m\n  tools: true\n  tools: false\n")
    assert file.models["m"].tools is False and "twice" in words(file)[0]


@pytest.mark.nightly
def test_a_hundred_thousand_entries_are_read_up_to_the_limit():
    file = read({"data": [{"id": f"p/m{at}"} for at in range(100_000)]})
    assert len(file.models) == file.entries == model_import.ENTRIES_MAX
    assert words(file) == ["entries: 90000 beyond the first 10000 are not read"]


def test_more_entries_than_the_limit_are_named(monkeypatch):
    monkeypatch.setattr(model_import, "ENTRIES_MAX", 100)
    entries = {f"p/m{at}": {"litellm_provider": "p"} for at in range(1_000)}
    file = read(entries)
    assert len(file.models) == file.entries == model_import.ENTRIES_MAX
    assert words(file) == ["entries: 900 beyond the first 100 are not read"]


def test_problems_are_counted_beyond_those_that_are_kept(monkeypatch):
    monkeypatch.setattr(model_import, "PROBLEMS_MAX", 5)
    file = read({"data": [{"id": f"m {at}"} for at in range(50)]})
    assert (len(file.problems), file.problems_total, file.models) == (5, 50, {})


@pytest.mark.parametrize("seed", range(3))
def test_no_value_in_any_place_ends_the_reading(seed):
    """Random values in the places of the three forms: a file is read or refused, and what is taken is valid."""
    chance = random.Random(seed)
    odd = [
        None,
        True,
        0,
        -1,
        10**30,
        1.5,
        "",
        "x" * 5000,
        "\x1b[2J",
        [],
        [[]],
        {},
        {"a": {"b": []}},
        "0.1",
        "1e-400",
        float("1e300"),
    ]
    own = json.loads(json.dumps({"models": [{"id": "m", "name": "n", "tools": True, "input": ["text"], "prices": [{"currency": "CNY", "region": "cn", "input": "1", "tiers": [{"above_input_tokens": 1, "input": "2"}]}], "vendor_ids": {"a": "b"}, "sources": [{"source": "s", "date": "d"}]}]}))  # fmt: skip
    lite = {"m": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1, "supported_modalities": ["text"], "max_input_tokens": 5, "source": "s"}}  # fmt: skip
    router = {"data": [{"id": "m", "pricing": {"prompt": "1"}, "architecture": {"input_modalities": ["text"]}, "top_provider": {"max_completion_tokens": 5}, "supported_parameters": ["tools"], "created": 5}]}  # fmt: skip
    for _ in range(150):
        content = json.loads(json.dumps(chance.choice([own, lite, router])))
        for _ in range(chance.randint(1, 3)):
            place(content, chance, json.loads(json.dumps(chance.choice(odd))))
        try:
            file = read(content, chance.choice([None, *model_import.FILE_FORMATS]))
        except ModelsFileFaulty:
            continue
        for name, facts in file.models.items():
            assert type(facts).model_validate(facts.model_dump()) == facts and facts.id == name


def place(content, chance, value):
    """Put a value in a random place below the top."""
    here = content
    while True:
        keys = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(here[key], dict | list) or not here[key] or chance.random() < 0.3:
            here[key] = value
            return
        here = here[key]
