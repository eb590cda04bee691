"""What an entry of the list of models says, by what is declared and what is published."""

import pytest

from tests.gateway.request.test_models import deployment
from tokenworks.factory import MODALITIES, ModelCard, ModelFacts
from tokenworks.gateway.protocol.fields import lists_of
from tokenworks.gateway.request import model_fields
from tokenworks.gateway.request.model_fields import (
    calls_tools,
    capabilities,
    modalities,
    parameters,
    tokenizer,
)

TEXT, MUTE = ModelFacts(id="t", input=("text",), tools=True), ModelFacts(id="m", tools=False)


def test_modalities_of_every_declaration():
    for name in MODALITIES:
        assert modalities([ModelCard(name="m", modalities=(name,))], [])[0] == list(
            dict.fromkeys(["text", name])
        )


def test_pdf_is_a_file():
    assert modalities([], [ModelFacts(id="m", input=("pdf",))])[0] == ["text", "file"]
    assert capabilities([], [ModelFacts(id="m", input=("pdf",))], ["text", "file"])["pdf_input"] == {
        "supported": True
    }


@pytest.mark.parametrize(
    ("cards", "facts", "expected"),
    [([], [], True), ([], [TEXT], True), ([], [MUTE], False), ([], [MUTE, TEXT], True), ([], [ModelFacts(id="m")], True), ([ModelCard(name="m", tools=False)], [TEXT], False)],
)  # fmt: skip
def test_whether_tools_are_called(cards, facts, expected):
    assert calls_tools(cards, facts) is expected


def test_parameters_are_those_that_the_allow_list_lets_pass():
    found = parameters([deployment("m", profile="openai")], [], [])
    rules = lists_of("chat").body.rules
    assert found == sorted(found) and "max_tokens" in found
    assert all(rules[name].action in {"pass", "price", "translate"} for name in found)
    # A field that only some profiles take is listed where a deployment has such a profile.
    engine = parameters([deployment("m", profile="vllm")], [], [])
    assert (
        "top_k" in engine
        and "top_k"
        in parameters([deployment("m", profile="openai"), deployment("m", profile="vllm")], [], [])
        and "top_k" not in found
    )
    assert parameters([deployment("m", "messages")], [], []) == []


def test_tokenizers_by_maker():
    assert (
        tokenizer(None)
        == tokenizer(ModelFacts(id="m"))
        == tokenizer(ModelFacts(id="m", maker="Nobody"))
        == "Other"
    )
    assert tokenizer(ModelFacts(id="m", maker="DeepSeek")) == "DeepSeek"
    assert set(model_fields._TOKENIZERS.values()) >= {"Qwen", "GPT", "Claude"}
