"""A worker without sockets: real slices, snapshot, placement and meters; a recorder, connections and time that a test moves."""

import asyncio
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

from tokenworks.catalog import Weights
from tokenworks.charging import Slices
from tokenworks.charging.messages import BucketTerms
from tokenworks.factory import Deployment
from tokenworks.gateway.http.head import parse_head
from tokenworks.gateway.http.names import header_names
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.request.exchange import Exchange
from tokenworks.gateway.request.parts import Parts
from tokenworks.gateway.request.state import AnsweredAttempt, HeldRequest
from tokenworks.gateway.shared import Shared
from tokenworks.gateway.snapshot import Snapshot
from tokenworks.gateway.stats import Stats

SETTINGS = {
    "memory_bytes_max": 1 << 24,
    "memory_address_percent": 100,
    "operator_loss_budget_tokens": 10_000,
    "retries_per_s": 10,
    "key_requests_max": 8,
    "key_abandons_per_min": 0,
    "stream_hold_tokens": 64,
    "progress_tokens": 1000,
    "filing_required": False,
    "attempts_max": 3,
    "queue_wait_s": 2,
    "flex_deadline_s": 100,
    "decision_log_every": 0,
    "event_bytes_max": 1 << 20,
    "response_bytes_max": 1 << 20,
    "request_timeout_s": 600,
    "upstream_first_byte_timeout_s": 60,
    "upstream_idle_timeout_s": 30,
    "failover_patience_s": 5,
    "drain_s": 30,
    "drain_tokens": 100,
    "idempotency_hours": 24,
    "cache_age_max_s": 3600,
    "replay_answer_bytes_max": 10_000,
    "stored_response_days": 30,
    "body_bytes_max": 20_000,
    "content_log_days": 7,
    "content_log_entry_bytes_max": 10_000,
}
WHOLE = {
    "id": "u-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
}


class Loop:
    """A clock that a test moves; what was asked for soon runs with `turn`."""

    def __init__(self):
        self.now_s = 1000.0
        self.soon = []

    def time(self):
        return self.now_s

    def call_later(self, delay_s, call, *arguments):
        self.soon.append((call, arguments))
        return SimpleNamespace(cancel=lambda: None)


class Clock:
    ms = 1_790_000_000_000

    def civil_ms(self):
        return self.ms

    def boot_ns(self):
        return 10


class Recorder:
    """What the worker said to the recorder, and what it waits for."""

    worker_id = "0" * 32

    def __init__(self):
        self.began, self.dropped, self.records, self.progressed = {}, [], [], []
        self.asked, self.filled, self.requests, self.forgotten, self.given = [], [], [], [], []
        self.admissions = Admissions()

    def begin(self, usage_id, attempt):
        self.began[usage_id] = attempt

    def drop(self, usage_id):
        self.dropped.append(usage_id)

    def progress(self, *said):
        self.progressed.append(said)

    def finish(self, record, durable, argument, risk_tokens=0):
        self.records.append((record, risk_tokens))
        self.durable = lambda: durable(argument)

    def request_slices(self, account, cap_ids, model, need, answered):
        asked = SimpleNamespace(account=account, model=model, need=need, answered=answered)
        self.asked.append(asked)
        return asked

    def prefetch(self, account, cap_ids, model, need):
        account.low = False
        self.filled.append(need)

    def cancel(self, asked):
        self.forgotten.append(asked)

    def request(self, question, argument, answered):
        self.requests.append((question, argument, answered))

    def released(self, account):
        self.given.append(account)


class Admissions:
    def __init__(self):
        self.asked, self.ended, self.forgotten = [], [], []

    def request(self, limits, tokens, answered, queued=None):
        self.asked.append(SimpleNamespace(limits=limits, tokens=tokens, answered=answered, queued=queued))
        return len(self.asked)

    def end(self, admission, tokens, *, begun):
        self.ended.append((admission, tokens, begun))

    def cancel(self, number):
        self.forgotten.append(number)


class Client:
    """A client's connection: what was written to it."""

    address = "192.0.2.9"
    keep_alive = True

    def __init__(self):
        self.written, self.refused, self.done_times, self.aborted = b"", None, 0, False
        self.exchange, self.streamed, self.write_paused = None, False, False

    def write(self, data):
        self.written += data

    def write_whole(self, head, body):
        self.written += head + body

    def refuse(self, refusal, protocol, request_id):
        self.refused = refusal

    def done(self):
        self.done_times += 1

    def abort(self):
        self.aborted = True


class Upstream:
    """A connection to a deployment."""

    def __init__(self, pool, *, reused=False):
        self.pool, self.reused = pool, reused
        self.status, self.headers, self.content_type = 200, {b"content-type": b"application/json"}, b""
        self.aborted = self.paused = self.large = self.half_closed = False
        self.user = None

    @property
    def names(self):
        return header_names(tuple(self.headers))

    def begin(self, user, head, body, patience_s, idle_s):
        self.user, self.head, self.body, self.patience_s = user, head, json.loads(body), patience_s

    def abort(self):
        self.aborted = True

    def pause(self):
        self.paused = True

    def resume(self, idle_s):
        self.paused = False

    def end_request(self):
        self.half_closed = True
        return True

    def answers(self, data, *, kind=b"application/json", status=200):
        self.status, self.content_type = status, kind
        self.headers = {b"content-type": kind}
        self.user.upstream_head(self)
        self.user.upstream_data(self, data)

    def ends(self):
        self.user.upstream_end(self)


class PoolStub:
    """Each deployment's connections, the latest last; with `cold`, they have to be made first."""

    def __init__(self):
        self.made, self.back, self.connecting, self.cold, self.reused = [], [], [], False, False

    def take(self):
        if self.cold:
            return None
        self.made.append(Upstream(self, reused=self.reused))
        return self.made[-1]

    def connect(self, connected, timeout_s=None):
        self.connecting.append((connected, timeout_s))

    def give_back(self, connection):
        self.back.append(connection)


class Worker:
    def __init__(self, *names, tokens=100_000, limits=None, aliases=None, models=(), intents=(), **settings):
        self.settings = SimpleNamespace(**(SETTINGS | settings))
        deployments = [deployment(name) if isinstance(name, str) else name for name in names or ("d1",)]
        snapshot = Snapshot(1, deployments, aliases or {}, {}, {}, limits=limits or {}, models=models, intents=intents)  # fmt: skip
        self.shared = shared = asyncio.run(self._shared())
        shared.loop = self.loop = Loop()
        shared.client = self.recorder = Recorder()
        shared.slices = self.slices = Slices(rate)
        shared.keys = SimpleNamespace(lacking=())
        shared.counter = self
        shared.links = self
        shared.snapshot = snapshot
        shared.placement.set_views(snapshot.views, self.loop.now_s)
        self.jobs, self.ended, self.pools, self.checks = [], [], {}, []
        self.parts = Parts(shared, SimpleNamespace(of=self.pool))
        self.user = KeyEntry("k", b"k")
        self.user.known = True
        self.user.account_id, self.user.key_id, self.user.member_id = "acc", "key", "member"
        if tokens:
            self.grant(tokens)

    async def _shared(self):
        with tempfile.TemporaryDirectory() as folder:
            return Shared(self.settings, Clock(), Stats(Path(folder) / "stats", os.getpid()))

    def grant(self, tokens):
        terms = BucketTerms("b", "acc", "balance", "token", 1, None, ("*",), "card")
        self.slices.receive("acc", "grant", terms, tokens * 1000, 100)

    @property
    def free_tokens(self):
        return sum(slice_.free for slice_ in self.slices.account("acc").all()) // 1000

    @property
    def held(self):
        return self.slices.account("acc").held

    def view(self, name):
        return self.shared.snapshot.by_name[name]

    def pool(self, place):
        name = place if isinstance(place, str) else place.name
        return self.pools.setdefault(name, PoolStub())

    def upstream(self, name="d1"):
        return self.pool(name).made[-1]

    # The tokenizer's client, and the check of links.

    def count(self, job, done):
        self.jobs.append((job, done))

    def check(self, links, done):
        self.checks.append((links, done))

    # Requests.

    def arrives(self, *, free=False, protocol="chat", headers=b"", version=b"1.1", body=None, **fields):
        """An exchange whose key is not known yet."""
        body = body or body_of(**fields)
        head = parse_head(b"POST /v1/chat/completions HTTP/" + version + b"\r\nhost: x\r\n" + headers + b"\r\n", 100)  # fmt: skip
        conn = Client()
        conn.exchange = exchange = Exchange(
            self.parts, self.ended.append, conn, head, body, protocol, self.loop.now_s, free=free
        )
        self.client = conn
        return exchange

    def held_state(self, **fields):
        """The state of a request that has its model, and knows what it can cost."""
        exchange = self.known(**fields)
        self.parts.holds.size(exchange)
        return exchange

    def known(self, **fields):
        from tokenworks.gateway.protocol.fields import parse_body

        exchange = self.arrives(**fields)
        exchange.set_user(self.user)
        exchange.set_parsed(parse_body(exchange.body, exchange.protocol))
        assert self.parts.models.find(exchange) is None
        return exchange

    def begins(self, **fields):
        exchange = self.arrives(**fields)
        exchange.identified(self.user)
        return exchange


def answering(worker, request, name="d1"):
    """The state of an attempt at a deployment."""
    assert isinstance(request, HeldRequest)
    return AnsweredAttempt(request, worker.view(name).unscored, None, worker.settings.progress_tokens)


def rate(version, model):
    return "standard", Weights(0, *[1000] * 8)


def deployment(name, model="m", **fields):
    told = {
        "upstream_model": model, "base_url": "http://192.0.2.1/v1", "protocols": ("chat",), "allow_private": True,
        "context_tokens": 10_000, "max_output_tokens": 1000,
    }  # fmt: skip
    return Deployment(name=name, model=model, **(told | fields))


def body_of(model="m", content="hi", max_tokens=100, **fields):
    told = {"model": model, "messages": [{"role": "user", "content": content}], **fields}
    if max_tokens is not None:
        told["max_tokens"] = max_tokens
    return json.dumps(told).encode()


def whole(prompt=5, completion=2, **fields):
    used = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return json.dumps(WHOLE | {"usage": used} | fields).encode()


def events(*chunks):
    return b"".join(
        b"data: " + (chunk.encode() if isinstance(chunk, str) else json.dumps(chunk).encode()) + b"\n\n"
        for chunk in chunks
    )


def piece(text=None, finish=None, **fields):
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "u-1", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **fields}


def used(prompt, completion):
    return {
        "id": "u-1", "object": "chat.completion.chunk", "model": "m", "choices": [],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }  # fmt: skip
