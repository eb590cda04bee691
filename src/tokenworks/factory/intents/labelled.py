"""How much an intent saves, and how much quality it keeps, on requests that are labelled easy or hard."""

from pathlib import Path
from typing import Final, NamedTuple

import yaml

from tokenworks.factory.errors import TraceFaulty
from tokenworks.factory.intents.choice import (
    Intent,
    ModelCard,
    Option,
    Requirements,
    difficulty,
    features,
    rank,
)

SYNTHETIC_REQUESTS: Final = Path(__file__).parents[1] / "requests.yaml"
REQUESTS_BYTES_MAX: Final = 10_000_000
# The assumed time to first token of a small and a large model.
SMALL_MS, LARGE_MS = 100.0, 400.0


class LabelledRequest(NamedTuple):
    hard: bool
    text: str


class IntentEvaluation(NamedTuple):
    """How an intent did on labelled requests: counts, and shares of 1."""

    requests: int
    hard: int
    # Requests that got the large model, and hard ones among them.
    to_large: int
    hard_kept: int
    # What is saved of the price of the large model; the share of requests that got a model good enough for them.
    saving: float
    well_answered: float


def read_requests(path: Path) -> list[LabelledRequest]:
    """A YAML list of [easy or hard, text]. Raises `TraceFaulty`."""
    if path.stat().st_size > REQUESTS_BYTES_MAX:
        raise TraceFaulty(f"{path.name} is larger than {REQUESTS_BYTES_MAX} bytes")
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TraceFaulty(f"{path.name}: {str(error).splitlines()[0]}") from None
    if not isinstance(rows, list) or not rows:
        raise TraceFaulty(f"{path.name} is a list of [easy or hard, text], and is not empty")
    found = []
    for number, row in enumerate(rows, 1):
        if not (
            isinstance(row, list)
            and len(row) == 2
            and row[0] in {"easy", "hard"}
            and isinstance(row[1], str)
            and row[1]
        ):
            raise TraceFaulty(f"{path.name}: entry {number} is not [easy or hard, text]")
        found.append(LabelledRequest(row[0] == "hard", row[1]))
    return found


def evaluate(
    intent: Intent,
    requests: list[LabelledRequest],
    small: tuple[ModelCard, int],
    large: tuple[ModelCard, int],
) -> IntentEvaluation:
    """Rank a small and a large model, each with the price of its output token, for every request. All answers count as equally long."""
    to_large = hard_kept = well_answered = 0
    spent = 0
    for request in requests:
        requirements = Requirements(difficulty(features(request.text)))
        options = [
            Option(card.name, card, ms, price) for (card, price), ms in ((small, SMALL_MS), (large, LARGE_MS))
        ]
        got_large = rank(intent, requirements, options)[0].model == large[0].name
        to_large += got_large
        hard_kept += got_large and request.hard
        well_answered += got_large or not request.hard
        spent += large[1] if got_large else small[1]
    return IntentEvaluation(
        len(requests),
        sum(request.hard for request in requests),
        to_large,
        hard_kept,
        1.0 - spent / (large[1] * len(requests)) if large[1] else 0.0,
        well_answered / len(requests),
    )
