"""The game day: a short one each time, and at length at night. And that what it allows is what the runbook's pages say."""

import io
import os
import re

import pytest

from tests.gameday.events import CUT, DECK
from tests.gameday.game import OK, Lost, Window, charged_tokens, lost_tokens, order, play
from tests.gameday.timeline import Timeline
from tests.gameday.traffic import BROKEN, Answer, Traffic
from tests.support.server import ROOT

pytestmark = pytest.mark.fault
# One of each kind: a process, a database, what is changed while it serves, a host.
SHORT = (
    "a worker is killed", "the recorder hangs", "the database is dead", "a standby that lost commits is promoted",
    "the certificate is renewed", "a third host joins", "a host is lost and replaced",
)  # fmt: skip
SEEDS = [int(seed) for seed in os.environ.get("GAME_DAY_SEEDS", "1 2 3 4").split()]
# How the pages say that a connection ends without its answer.
SAID = {BROKEN: ("break off", "stop every host")}


def pages():
    text = (ROOT / "docs/RUNBOOK.md").read_text()
    return dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))


@pytest.mark.parametrize("name", DECK)
def test_what_clients_may_see_is_on_the_runbooks_page(name):
    event, there = DECK[name], pages()
    assert event.pages and set(event.pages) <= set(there)
    text = "".join(there[page] for page in event.pages)
    for code in event.allowed:
        assert any(words in text for words in SAID.get(code, (f"`{code}`",))), (code, event.pages)


@pytest.mark.nightly
def test_a_short_game_is_won():
    sums = run(1, 1, only=SHORT, clients=6)
    assert sums["answers"][OK] > 50 and sums["charged"] > 0


@pytest.mark.nightly
@pytest.mark.parametrize("seed", SEEDS)
def test_a_long_game_is_won(seed):
    run(seed, 3, workers=1 + seed % 2)


def run(seed, rounds, **how):
    said = io.StringIO()
    timeline = Timeline(said)
    try:
        return play(seed, rounds, timeline, **how)
    except AssertionError as error:
        raise AssertionError(
            f"{error}\n{said.getvalue()}\nscripts/game-day --seed {seed} --rounds {rounds}; {timeline.logs_at}"
        ) from error
    finally:
        print(said.getvalue())


def test_the_same_seed_is_the_same_game():
    import random

    one, two = (order(random.Random(7), 2) for _ in range(2))
    assert one == two and len(one) == 2 * len(DECK) and set(one[: len(DECK)]) == set(DECK.values())
    assert len(order(random.Random(7), 3, events=2)) == 6


def answer(code, began_s, ended_s, status=503, retry_after=True):
    return Answer(0, status, code, began_s, ended_s, "", "", 0, retry_after)


def test_an_error_is_excused_by_an_event_that_it_overlaps_and_that_allows_it():
    window = Window(DECK["the database is dead"], 10.0)
    assert window.excuses(answer("database_away", 11, 12)) and window.excuses(
        answer("database_away", 9, 10.5)
    )
    window.ended_s = 20.0
    assert not window.excuses(answer("database_away", 20.5, 21)), "it is over"
    assert not window.excuses(answer("database_away", 8, 9)), "it had not begun"
    assert not window.excuses(answer("nothing_left", 11, 12))
    assert not window.excuses(answer("database_away", 11, 12, retry_after=False)), (
        "nobody is told to come again"
    )
    assert not window.excuses(answer(BROKEN, 11, 12, status=0)) and BROKEN in CUT


def test_what_a_client_sees_is_told_apart():
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    said = Traffic._said
    whole = head + b"data: tok tok \n\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    assert said(whole, 2) == (200, OK) and said(whole, 3) == (200, "2 tokens of 3")
    assert said(b"", 2) == (0, BROKEN) and said(whole[:-5], 2) == (200, BROKEN)
    assert said(head + b'data: {"error": {"code": "shutting_down"}}\n\n\r\n0\r\n\r\n', 2) == (
        200,
        "shutting_down",
    )
    refused = b'HTTP/1.1 503 X\r\ncontent-length: 42\r\n\r\n{"error": {"code": "database_away", "x": 1}}'
    assert said(refused, 2)[1] == "database_away" and said(refused[:-9], 2)[1] == BROKEN


def test_the_sums_are_of_a_records_parts_and_losses():
    assert charged_tokens([["", "", "", "", "", 16_000], ["", "", "", "", "", 1_000]]) == 17
    assert lost_tokens([["late", 0, [3, 0, 4]]]) == {"late": 7} and lost_tokens(None) == {}
    assert issubclass(Lost, AssertionError)
