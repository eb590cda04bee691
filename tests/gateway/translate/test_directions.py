"""Which protocols can be written as which others."""

import pytest

from tokenworks.gateway.translate.directions import DIRECTIONS, upstream_protocol


@pytest.mark.parametrize(
    ("client", "spoken", "upstream"),
    [
        ("messages", ("chat",), "chat"),
        ("messages", ("responses",), "responses"),
        ("messages", ("responses", "chat"), "chat"),
        ("chat", ("responses", "messages"), "messages"),
        ("responses", ("messages", "chat"), "chat"),
        ("messages", ("chat", "messages"), None),
        ("chat", ("completions", "embeddings"), None),
        ("completions", ("chat",), None),
        ("embeddings", ("chat", "messages", "responses"), None),
    ],
)
def test_a_deployment_is_spoken_to_in_the_best_protocol_that_it_has(client, spoken, upstream):
    assert upstream_protocol(client, spoken) == upstream


def test_each_of_three_protocols_is_written_as_both_others():
    spoken = {"chat", "messages", "responses"}
    assert set(DIRECTIONS) == spoken
    assert all({client, *others} == spoken for client, others in DIRECTIONS.items())
