"""An agent whose key has a cap: it works until the cap is reached, and then ends in order. Needs: pip install openai

Make its key with `tokenworks key create --subscriber … --cap-tokens 2000`. The gateway holds the cap, so a prompt that talks
the agent into a loop costs no more than that. WORKS_URL, WORKS_KEY and MODEL as in client.py; STEPS_MAX bounds the steps.
"""

import os
import sys

import openai

URL = os.environ.get("WORKS_URL", "http://127.0.0.1:8080")
MODEL = os.environ.get("MODEL", "qwen3")
STEPS_MAX = int(os.environ.get("STEPS_MAX", "1000"))
TASK = "You are a researcher. Each turn, write the next short note on why rivers meander."


class CapReached(Exception):
    """The gateway answers 402 `nothing_left`: the key's cap, or the account, does not cover this request."""


class Agent:
    def __init__(self) -> None:
        self.client = openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ["WORKS_KEY"])
        self.notes: list[str] = []
        self.tokens = 0

    def step(self) -> None:
        """Ask for one note. What was written last goes back in as context."""
        messages = [
            {"role": "system", "content": TASK},
            {"role": "user", "content": "\n".join(self.notes[-3:]) or "Begin."},
        ]
        try:
            # Near the cap the gateway lowers this maximum to what is left, so the last note may be short.
            answer = self.client.chat.completions.create(model=MODEL, messages=messages, max_tokens=80)
        except openai.APIStatusError as error:
            if error.status_code == 402 and error.code == "nothing_left":
                raise CapReached(error.message) from error
            raise
        self.notes.append(answer.choices[0].message.content or "")
        self.tokens += answer.usage.total_tokens


def main() -> int:
    agent = Agent()
    try:
        while len(agent.notes) < STEPS_MAX:
            agent.step()
        ended = "All steps are done."
    except CapReached:
        ended = "The key's cap is reached."
    # What was written so far is kept: a cap is an end, not a crash.
    print(f"{ended} {len(agent.notes)} notes, {agent.tokens} tokens.")
    return 0 if agent.notes else 1


if __name__ == "__main__":
    sys.exit(main())
