"""Twelve clients that want tokens for nothing. Each is a loop of requests as a real client sends them, until its time is over."""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from tests.edge.shapes import WORD, asked
from tests.edge.strategies import PNG
from tests.edge.wire import ask, request_bytes, reset

LONG = 10_000  # words of a prompt that is worth stealing
PAUSE_S = 0.01


@dataclass
class Rider:
    """A client: where it asks, with which key, for which model, and until when (monotonic seconds)."""

    port: int
    key: str
    model: str
    until_s: float
    asked: int = 0

    async def ask(self, protocol, body, mode="all"):
        self.asked += 1
        answer = await ask(self.port, {"body": body, "timeout_s": 20}, self.key, self.model, protocol, mode)
        await asyncio.sleep(PAUSE_S)
        return answer

    def chat(self, text, mode="all", **body):
        return self.ask("chat", asked("chat", text) | body, mode)


def prompt(told, words):
    return f"{told} " + WORD * (words - 1)


async def alias_of_the_maximum(rider):
    """One token is the maximum; the same under the other names that engines know is more."""
    more = {"n_predict": 150, "max_new_tokens": 150, "num_predict": 150, "max_output_tokens": 150}
    await rider.chat(prompt("say:150", 20), max_tokens=1, **more)


async def hidden_thinking(rider):
    """Thinking that the answer does not show."""
    body = asked("messages", prompt("think:3000 say:10", 20)) | {
        "max_tokens": 8000,
        "stream": True,
        "thinking": {"type": "adaptive"},
    }
    await rider.ask("messages", body)


async def many_tool_calls(rider):
    """Output that is hardly a text: names and empty arguments."""
    tool = {
        "type": "function",
        "function": {"name": "get_an_entry_with_all_its_revisions", "parameters": {"type": "object"}},
    }
    await rider.chat(prompt("call:12", 20), max_tokens=2000, stream=True, tools=[tool])


async def left_at_finish_reason(rider):
    """The loop of an SDK ends where a reason to end is seen, before the usage."""
    await rider.chat(prompt("say:30", LONG), "stops at finish_reason", stream=True)


async def left_one_token_before_the_end(rider):
    await rider.chat(prompt("say:24", LONG), {"resets_after_events": 12}, stream=True, max_tokens=24)


async def left_unstreamed(rider):
    """The client gives up waiting; the answer is made all the same."""
    await rider.chat(prompt("say:200", LONG), {"resets_after_ms": 15}, max_tokens=400)


async def media_at_once(rider):
    """Fifty pictures on an account that has no more than ten thousand tokens."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    body = asked("chat") | {
        "max_tokens": 20,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "say:10"}, picture]}],
    }
    await asyncio.gather(*(rider.ask("chat", body) for _ in range(50)))


async def left_early_in_a_long_stream(rider):
    """A long prompt read, a little of the answer, and gone."""
    await rider.chat(prompt("say:4000", LONG), {"resets_after_events": 3}, stream=True, max_tokens=20_000)


async def left_before_the_first_token(rider):
    """The prompt is read while nothing has come yet."""
    await rider.chat(prompt("say:20 read:60", LONG), {"resets_after_ms": 20}, stream=True, max_tokens=300)


async def slow_reader(rider):
    """A client that takes nothing, so that what is made piles up, and then resets."""
    rider.asked += 1
    body = asked("chat", prompt("say:60", LONG)) | {"stream": True, "max_tokens": 400}
    data = request_bytes({"body": body}, rider.key, rider.model, "chat")
    _, writer = await asyncio.open_connection("127.0.0.1", rider.port, limit=1024)
    with contextlib.suppress(OSError):
        writer.write(data)
        await writer.drain()
    await asyncio.sleep(0.15)  # as long as this client pretends to read
    reset(writer)


async def many_choices(rider):
    """One token is the maximum, of as many choices as are given."""
    await rider.chat(prompt("say:150", 20), max_tokens=1, n=50, best_of=50)


async def many_at_once_on_a_small_account(rider):
    """Long answers beside each other, more than the account can pay."""
    await asyncio.gather(*(rider.chat(prompt("say:200", 400), stream=True) for _ in range(20)))


# strategy: (what it does, its account, the metric that names it)
STRATEGIES = {
    "alias_of_the_maximum": (alias_of_the_maximum, "ctc-flagship", "free_rider_maximum_aliases"),
    "hidden_thinking": (hidden_thinking, "ctc-flagship", "free_rider_hidden_output"),
    "many_tool_calls": (many_tool_calls, "ctc-flagship", "free_rider_tool_calls"),
    "left_at_finish_reason": (left_at_finish_reason, "ctc-flagship", "free_rider_left_at_finish"),
    "left_one_token_before_the_end": (
        left_one_token_before_the_end,
        "ctc-flagship",
        "free_rider_left_near_the_end",
    ),
    "left_unstreamed": (left_unstreamed, "ctc-flagship", "free_rider_left_unstreamed"),
    "media_at_once": (media_at_once, "sample-trial", "free_rider_media_refused"),
    "left_early_in_a_long_stream": (
        left_early_in_a_long_stream,
        "ctc-flagship",
        "free_rider_left_in_content",
    ),
    "left_before_the_first_token": (
        left_before_the_first_token,
        "ctc-flagship",
        "free_rider_left_before_content",
    ),
    # What it leaves unread is in the kernel's buffers: to the gateway it is a client that leaves near the end.
    "slow_reader": (slow_reader, "ctc-flagship", "free_rider_left_near_the_end"),
    "many_choices": (many_choices, "ctc-flagship", "free_rider_many_choices"),
    "many_at_once_on_a_small_account": (
        many_at_once_on_a_small_account,
        "sample-trial",
        "free_rider_over_balance",
    ),
}


async def ride(rider, strategy):
    """Do it again and again until the time is over; at least once."""
    while True:
        await STRATEGIES[strategy][0](rider)
        if time.monotonic() >= rider.until_s:
            return
