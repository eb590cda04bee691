"""Usage beyond the hold: an account that has plenty pays it; what nobody can pay is a loss with its cause, listed and counted."""

import json
import os
import signal

from tests.support.server import Server, until


def losses(server, *more):
    return json.loads(server.cli("ledger", "losses", "--json", *more).stdout)


def test_an_account_with_plenty_pays_what_was_beyond_its_hold(server):
    subscriber, key = server.subscriber()
    before = server.buckets(subscriber)[0].left
    for n in range(1, 4):
        assert server.chat(key, {"prompt": 14_000, "tokens": 10})[0] == 200
        record = server.usage(subscriber, n)[0]
        assert record["loss"] == []
        assert sum(part[5] for part in record["parts"]) == 14_010_000
    until(lambda: server.buckets(subscriber)[0].left == before - 3 * 14_010_000, what="the balance")
    assert losses(server, "--subscriber", str(subscriber.subscriber_id)) == []
    assert server.findings() == []


def test_what_nobody_can_pay_is_listed_counted_and_throttles_its_account(tmp_path, upstream):
    with Server(tmp_path, operator_loss_budget_tokens=1000) as small:
        small.add_deployment("stub", "stub", upstream.url)
        subscriber, key = small.subscriber("sample-trial")
        assert small.metrics("recorder_accounts_over_loss_budget") == [0.0]
        assert small.chat(key, {"prompt": 30_000, "tokens": 10})[0] == 200
        record = small.usage(subscriber, 1)[0]
        charged = sum(part[5] for part in record["parts"])
        (lost,) = record["loss"]
        assert lost["cause"] == "beyond_hold"
        assert charged + 1000 * sum(lost["counts"].values()) == 30_010_000
        # All that no host had leased was drawn: what is left is what this host holds a lease of.
        (bucket,) = small.buckets(subscriber)
        assert bucket.remaining < 1000
        (row,) = losses(small)
        assert (row["cause"], row["records"], row["tokens"]) == (
            "beyond_hold",
            1,
            sum(lost["counts"].values()),
        )
        assert "beyond_hold" in small.cli("ledger", "losses").stdout
        shown = json.loads(small.cli("usage", "--subscriber", str(subscriber.subscriber_id), "--json").stdout)
        assert shown[0]["loss"] == record["loss"]
        assert shown[0]["cache_write_1h"] == 0
        until(
            lambda: small.metrics("recorder_accounts_over_loss_budget") == [1.0],
            what="the budget to be passed",
        )
        assert row["tokens"] in small.metrics("loss_tokens")
        assert small.findings() == []
        # The next recorder knows it from the database.
        (recorder,) = [pid for name, pid in small.processes() if name == "recorder"]
        os.kill(recorder, signal.SIGKILL)
        until(lambda: [pid for name, pid in small.processes() if name == "recorder"] not in ([], [recorder]))
        until(small.ready, what="the next recorder")
        until(
            lambda: small.metrics("recorder_accounts_over_loss_budget") == [1.0],
            what="the next recorder's word",
        )
