"""Many clients on one account: never below zero, no false refusal, every refusal in protocol."""

import asyncio
import json

from tests.support.server import Server


async def _stream(server, key, told, max_tokens):
    """(status, body) of a streamed chat, read to its end."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    body = json.dumps({
        "model": "stub", "stream": True, "max_tokens": max_tokens, "user": json.dumps(told), "messages": [{"role": "user", "content": "hi"}],
    }).encode()  # fmt: skip
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    data = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return int(data[9:12]), data


async def _all(server, key, count, told, max_tokens):
    return await asyncio.gather(*[_stream(server, key, told, max_tokens) for _ in range(count)])


async def _all_at_once(server, upstream, key, count, told, max_tokens):
    """The same; the upstream holds what it was asked until every other request has been refused."""
    before = await asyncio.to_thread(upstream.running)
    tasks = [asyncio.create_task(_stream(server, key, told, max_tokens)) for _ in range(count)]
    async with asyncio.timeout(50):
        while await asyncio.to_thread(upstream.running) - before + sum(task.done() for task in tasks) < count:
            await asyncio.sleep(0.02)
    await asyncio.to_thread(upstream.release)
    return await asyncio.gather(*tasks)


def test_200_streams_on_balance_for_about_50(tmp_path, upstream):
    with Server(tmp_path, workers=2) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("sample-trial")
        # A hold is the bound of the input (a token a byte of a body of about 150, and 128) and max_tokens: about 340 in all.
        # None of them ends before all are decided: what a stream gives back when it ends would serve another.
        told = {"tokens": 60, "prompt": 11, "hold_after": 1}
        results = asyncio.run(_all_at_once(server, upstream, key, 200, told, 60))
        statuses = [status for status, _ in results]
        assert set(statuses) <= {200, 402}, statuses
        served, refused = statuses.count(200), statuses.count(402)
        for status, data in results:
            if status == 200:
                assert data.endswith(b"0\r\n\r\n")
                assert b"[DONE]" in data
            else:
                assert b'"code": "nothing_left"' in data
        records = server.usage(subscriber, served)
        assert len(records) == served
        assert 25 <= served <= 45
        assert refused == 200 - served
        bucket = server.buckets(subscriber)[0]
        spent = [sum(part[5] for part in record["parts"]) for record in records]
        assert bucket.left == bucket.total - sum(spent) >= 0
        # The last one on a worker may get what is left there, which is less than it asked for.
        assert sum(tokens != 71_000 for tokens in spent) <= server.workers
        assert max(spent) == 71_000
        # What the streams did not use is left, wherever it is granted: whoever comes now is served, on either worker.
        again = asyncio.run(_all(server, key, 20, {"tokens": 1, "prompt": 11}, 60))
        assert [status for status, _ in again] == [200] * 20
        server.usage(subscriber, served + 20)
        assert server.findings() == []


def test_the_last_tokens_move_between_workers(tmp_path, upstream):
    """One worker has them all; the other gets what it needs, until a hold is really not covered."""
    with Server(tmp_path, workers=3) as server:
        server.add_deployment("stub", "stub", upstream.url)
        subscriber, key = server.subscriber("sample-trial")
        served = 0
        while True:
            status, data = asyncio.run(_stream(server, key, {"tokens": 100, "prompt": 50}, 100))
            if status == 402:
                break
            assert status == 200, data
            served += 1
        records = server.usage(subscriber, served)
        spent = sum(part[5] for r in records for part in r["parts"])
        # All were whole but the last ones, which got what there was.
        assert [r["output"] for r in reversed(records)][:60] == [100] * 60
        left = server.buckets(subscriber)[0].left
        assert left == 10_000_000 - spent
        body = len(json.dumps({
            "model": "stub", "stream": True, "max_tokens": 100, "user": json.dumps({"tokens": 100, "prompt": 50}),
            "messages": [{"role": "user", "content": "hi"}],
        }))  # fmt: skip
        # Where the bound does not fit what is left: two thirds of a token a byte, and some output.
        least = 1000 * (body * 2 // 3 + 16)
        assert left < least, f"refused with {left} left, the least hold is {least}"
        assert server.findings() == []
