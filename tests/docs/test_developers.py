"""The commands of the developers' page, run as it says against a real server, and the limits that it names."""

import json

import pytest

from tests.support.prompt import Prompt, blocks
from tests.support.server import ROOT, Server
from tokenworks.charging.ledger.usage import (
    USAGE_SUM_DAYS_DEFAULT,
    USAGE_SUM_DAYS_MAX,
    USAGE_SUM_RECORDS_MAX,
)
from tokenworks.gateway.protocol.fields import own
from tokenworks.subscriptions.key_standing import KEY_RECORDS_MAX

PAGE = ROOT / "docs/DEVELOPERS.md"


@pytest.fixture(scope="module")
def said(tmp_path_factory, upstream):
    """The output of each block, by its section."""
    found = {}
    with Server(tmp_path_factory.mktemp("host")) as server:
        server.add_deployment(
            "stub", "stub", upstream.url, "--protocol", "chat", "--protocol", "responses", wait=False
        )
        server.add_deployment("spare", "spare", upstream.url, "--upstream-model", "stub")
        subscriber, key = server.subscriber()
        with Prompt(tmp_path_factory.mktemp("reader"), server.env) as prompt:
            prompt.let(WORKS_URL=f"http://{server.public}", WORKS_KEY=key, MODEL="stub", OTHER_MODEL="spare")
            for block in blocks(PAGE):
                if block.section == "What is left, and what was used":
                    server.usage(subscriber, 3)
                found[block.section] = prompt.run(block)
        assert server.findings() == []
    return found


def test_the_page_does_what_it_says(said):
    assert json.loads(said["Models to fall back to"])["model"] == "stub"
    usage = json.loads(said["What a request cost"])["usage"]
    assert usage["cost"] == usage["total_tokens"] and usage["cost_details"]["unit"] == "token"
    decoder = json.JSONDecoder()
    text, parts = said["What is left, and what was used"], []
    while text.strip():
        part, end = decoder.raw_decode(text.lstrip())
        parts.append(part)
        text = text.lstrip()[end:]
    key, by_model, by_team = parts
    assert key["object"] == "key" and key["month"][0]["requests"] == 3
    assert [row["model"] for row in by_model["data"]] == ["stub"]
    assert [(row["tag:team"], row["requests"]) for row in by_team["data"]] == [("search", 1)]
    assert json.loads(said["Counting before asking"])["input_tokens"] == 8


def test_the_limits_on_the_page_are_those_of_the_code():
    text = PAGE.read_text()
    assert f"at most {own.FALLBACK_MODELS_MAX}:" in text
    assert f"at most {own.TAGS_MAX} tags and {own.TAGS_BYTES_MAX} bytes" in text
    assert (
        f"1 to {own.TAG_NAME_CHARS_MAX} letters" in text
        and f"at most {own.TAG_VALUE_CHARS_MAX} printable" in text
    )
    assert f"at most {USAGE_SUM_DAYS_MAX} days (the last {USAGE_SUM_DAYS_DEFAULT} by default" in text
    assert f"at most {USAGE_SUM_RECORDS_MAX} records of the account" in text
    assert f"more than {KEY_RECORDS_MAX} in a day or a month" in text
