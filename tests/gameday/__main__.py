"""`python -m tests.gameday --seed N --rounds N`: a game day on this machine. It ends with 1 where the game is lost."""

import argparse
import sys

from tests.gameday.events import DECK
from tests.gameday.game import play
from tests.gameday.timeline import Timeline


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/game-day", description="Trouble of every kind, in an order from a seed, under load."
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="the order of the events and what clients ask (default: 1)"
    )
    parser.add_argument("--rounds", type=int, default=1, help="how often every event happens (default: once)")
    parser.add_argument("--events", type=int, help="so many events of a round alone")
    parser.add_argument(
        "--only",
        action="append",
        choices=sorted(DECK),
        metavar="EVENT",
        help="these events alone; may be repeated",
    )
    parser.add_argument("--clients", type=int, default=8, help="clients that stream (default: 8)")
    parser.add_argument("--workers", type=int, default=1, help="workers of each host (default: 1)")
    parser.add_argument("--list", action="store_true", help="list the events and end")
    args = parser.parse_args()
    if args.list:
        for event in DECK.values():
            allowed = ", ".join(sorted(event.allowed)) or "nothing"
            print(f"{event.name}: clients may see {allowed} (runbook: {'; '.join(event.pages)})")
        return 0
    timeline = Timeline()
    try:
        play(
            args.seed, args.rounds, timeline, events=args.events, only=args.only, clients=args.clients, workers=args.workers
        )  # fmt: skip
    except AssertionError as error:
        timeline.console.print(f"lost: {error}", markup=False)
        timeline.console.print(
            f"what the hosts said: {timeline.logs_at}\nto play it again: scripts/game-day {' '.join(map(_quoted, sys.argv[1:]))}"
        )
        return 1
    return 0


def _quoted(word):
    return f"'{word}'" if " " in word else word


if __name__ == "__main__":
    sys.exit(main())
