"""A deployment alone for its model: one bad answer closes it no longer than it has to."""

import json
import time

from tests.e2e.test_worker_end import TOKENS_SHOWN, Stream
from tests.support.server import Server, StubUpstream, until
from tokenworks.factory import FAILURES_TO_OPEN
from tokenworks.gateway import read_seen


def test_it_is_open_again_at_the_first_good_byte_of_its_next_try(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, health_check_s=3600) as server:
        server.add_deployment("stub", "stub", upstream.url)
        _, key = server.subscriber("ctc-premium")
        upstream.behave(status=500)
        for _ in range(FAILURES_TO_OPEN):
            assert server.chat(key)[0] == 502
        upstream.behave()
        trial = Stream(server, key)
        until(lambda: trial.shows == TOKENS_SHOWN, what="the next try to answer")
        # The trial's answer goes on, and nobody waits for its end.
        for stream in (False, True):
            status, body, _ = server.chat(key, {"tokens": 2}, stream=stream)
            assert status == 200 and (not stream or b"[DONE]" in body)
        upstream.release()
        trial.join(20)
        assert trial.whole


def rests(server):
    """Whether each worker lets it rest, by what it says of its places once a second."""
    return [seen["stub"]["rests_s"] > 0 for seen in read_seen(server.settings.run_dir).values()]


def test_until_the_time_that_its_upstream_named_no_worker_asks_it(tmp_path):
    with StubUpstream() as upstream, Server(tmp_path, workers=2, health_check_s=1) as server:
        server.add_deployment("stub", "stub", upstream.url)
        _, key = server.subscriber("ctc-premium")
        upstream.behave(status=429, more="retry-after: 6\r\n")
        named_s = time.monotonic()
        assert server.chat(key)[0] == 429
        upstream.behave()
        until(lambda: rests(server) == [True, True], what="the other worker to hear of it")
        heads = upstream.count()["requests"]
        while True:
            status, body, _ = server.chat(key, {"tokens": 2})
            passed_s = time.monotonic() - named_s
            if status == 200:
                break
            assert status in {429, 503}, body
            if passed_s < 6:
                # Refused here, without a word to the upstream.
                assert upstream.count()["requests"] == heads
        assert passed_s >= 6
        assert json.loads(body)["usage"]["completion_tokens"] == 2
