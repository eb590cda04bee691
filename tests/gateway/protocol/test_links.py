import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest

from tokenworks.gateway.protocol.links import (
    CACHE_S,
    IN_FLIGHT_MAX,
    NAMES_MAX,
    RETRY_LATER,
    THREADS,
    LinkCheck,
    link_refusal,
)

GOOD = [
    "https://img.example.com/a.png",
    "http://8.8.8.8/x",
    "https://example.com:8443/a?b=c#d",
    "https://[2001:4860:4860::8888]/x",
    "https://bücher.example/a",
    "https://a.b.c.d.e.example/x",
]
BAD = [
    "http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/", "http://169.254.43518/", "http://169.16689662/", "http://0xa9.0xfe.0xa9.0xfe/",
    "http://[::ffff:169.254.169.254]/", "http://[::ffff:a9fe:a9fe]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/", "http://[::1]/", "http://[fd00::1]/", "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::1]/", "http://[::169.254.169.254]/", "http://127.0.0.1/", "http://127.1/", "http://0/", "http://0.0.0.0/", "http://10.0.0.1/", "http://192.168.1.1:80/", "http://172.16.0.1/",
    "http://100.100.100.200/", "http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://printer.local/", "http://metadata.google.internal/", "http://metadata.google.internal./", "http://intranet/",
    "http://db.home.arpa/", "http://169.254.169.254./", "http://user@8.8.8.8/", "http://8.8.8.8@169.254.169.254/", "http://\uff11\uff16\uff19.254.169.254/", "http://169。254。169。254/", "http://①②⑦.0.0.1/",
    "http://127.0.0.1\\@8.8.8.8/", "http://8.8.8.8\n.example/", "http://exa mple.com/", "file:///etc/passwd", "ftp://example.com/a", "gopher://example.com/", "//example.com/a", "/a.png", "", "http://", "http:///a",
    "http://999.1.1.1/", "http://1.2.3.4.5/", "http://0x/", "http://example.0x1/", "http://%31%32%37.0.0.1/", "http://[::1/", "http://a:99999/", "https://" + "a" * 9000 + ".example/", "s3://bucket/key", "http://+127.0.0.1/",
    "http://1_27.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", GOOD)
def test_public_places_pass(url):
    assert link_refusal(url) is None


@pytest.mark.parametrize("url", BAD)
def test_what_is_not_public_is_refused_in_every_spelling(url):
    assert link_refusal(url) is not None


def addresses(*found):
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in found]


def checked(resolves, *batches):
    """(the reason of a check for each batch of URLs, the names that were looked up); `resolves` has the addresses of names."""
    looked_up = []

    def getaddrinfo(host, port, **_):
        looked_up.append(host)
        found = resolves[host]
        if isinstance(found, Exception):
            raise found
        return addresses(*found)

    async def main():
        loop = asyncio.get_running_loop()
        check = LinkCheck(loop, getaddrinfo)
        return [await reason_of(check, batch) for batch in batches]

    return asyncio.run(main()), looked_up


async def reason_of(check, urls):
    done = asyncio.get_running_loop().create_future()
    check.check(urls, done.set_result)
    return await done


def test_names_are_resolved_once_and_refused_by_their_address():
    resolves = {
        "a.example": ["8.8.8.8"],
        "b.example": ["8.8.8.8", "10.0.0.1"],
        "c.example": OSError("no such name"),
        "d.example": ["::ffff:127.0.0.1"],
    }
    reasons, looked_up = checked(
        resolves, ["https://a.example/1", "https://a.example/2"], ["https://a.example/3"], ["https://a.example/", "https://b.example/"], ["https://b.example/2"], ["https://c.example/"],
        ["https://d.example/"], ["http://8.8.8.8/"], [],
    )  # fmt: skip
    assert [reason is None for reason in reasons] == [True, True, False, False, True, False, True, True]
    assert looked_up == ["a.example", "b.example", "c.example", "d.example"]
    assert CACHE_S > 0


def test_only_a_name_that_nobody_could_say_passes_and_is_remembered():
    resolves = {
        "a.example": socket.gaierror(socket.EAI_NONAME, "no such name"),
        "b.example": socket.gaierror(socket.EAI_AGAIN, "nobody answers"),
    }
    reasons, looked_up = checked(resolves, ["https://a.example/"], ["https://b.example/"], ["https://b.example/", "https://a.example/"])  # fmt: skip
    assert reasons == [None, None, None]
    assert looked_up == ["a.example", "b.example"]


@pytest.fixture
def slow(monkeypatch):
    """Look-ups that take until they are released, by their names; and those that were begun."""
    monkeypatch.setattr("tokenworks.gateway.protocol.links.RESOLVE_S_MAX", 0.3)
    release, begun = threading.Event(), []

    def getaddrinfo(host, port, **_):
        begun.append(host)
        release.wait(20)
        return addresses("10.0.0.1" if host.startswith("bad") else "8.8.8.8")

    yield getaddrinfo, release, begun
    release.set()


def test_a_name_that_resolves_too_slowly_does_not_pass_and_is_not_remembered(slow):
    getaddrinfo, release, begun = slow

    async def main():
        check = LinkCheck(asyncio.get_running_loop(), getaddrinfo)
        assert await reason_of(check, ["https://good.example/", "https://bad.example/"]) is RETRY_LATER
        assert await reason_of(check, ["https://bad.example/"]) is RETRY_LATER
        # Nobody waits any longer for this one: it is not looked up when a thread is free.
        assert await reason_of(check, ["https://left.example/"]) is RETRY_LATER
        assert len(begun) == 2
        release.set()
        while check._lookups:
            await asyncio.sleep(0.01)
        # What came late is known to who comes again.
        assert "bad.example" in await reason_of(check, ["https://bad.example/"])
        assert await reason_of(check, ["https://good.example/"]) is None
        assert sorted(begun) == ["bad.example", "good.example"]
        assert await reason_of(check, ["https://left.example/"]) is None

    asyncio.run(main())


def test_names_of_many_requests_are_bounded_and_leave_the_loops_own_threads_alone(slow):
    getaddrinfo, release, begun = slow

    async def main():
        loop = asyncio.get_running_loop()
        check = LinkCheck(loop, getaddrinfo)
        reasons = []
        for request in range(IN_FLIGHT_MAX // NAMES_MAX):
            check.check([f"https://h{request}-{i}.example/" for i in range(NAMES_MAX)], reasons.append)
        assert reasons == []
        check.check(["https://one-more.example/"], reasons.append)
        assert reasons == [RETRY_LATER]
        # One that is looked up already takes no more room.
        check.check(["https://h0-0.example/"], reasons.append)
        assert reasons == [RETRY_LATER]
        await asyncio.wait_for(loop.run_in_executor(None, lambda: None), 5)
        while len(reasons) < 2 + IN_FLIGHT_MAX // NAMES_MAX:
            await asyncio.sleep(0.01)
        assert all(why is RETRY_LATER for why in reasons)
        assert len(begun) == THREADS
        assert all(thread.daemon for thread in check._threads)
        release.set()
        while check._lookups:
            await asyncio.sleep(0.01)
        assert await reason_of(check, ["https://one-more.example/"]) is None

    asyncio.run(main())


def test_one_request_that_fails_keeps_no_other_from_its_answer():
    async def main():
        check = LinkCheck(asyncio.get_running_loop(), lambda *_, **__: addresses("8.8.8.8"))

        def fails(why):
            raise TypeError

        check.check(["https://a.example/"], fails)
        return await reason_of(check, ["https://a.example/"])

    assert asyncio.run(main()) is None


def test_a_process_ends_while_a_name_is_looked_up():
    code = """
import asyncio, time
from tokenworks.gateway.protocol.links import LinkCheck

async def main():
    check = LinkCheck(asyncio.get_running_loop(), lambda *_, **__: time.sleep(60))
    check.check(["https://slow.example/"], print)
    await asyncio.sleep(0.1)

asyncio.run(main())
"""
    begun_s = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
    assert time.monotonic() - begun_s < 20


def test_a_literal_address_and_too_many_names_are_refused_at_once():
    assert checked({}, ["https://[::1]/"])[0][0] is not None
    many = [f"https://h{i}.example/" for i in range(NAMES_MAX + 1)]
    reasons, looked_up = checked({}, many)
    assert reasons[0] not in {None, RETRY_LATER} and looked_up == []
