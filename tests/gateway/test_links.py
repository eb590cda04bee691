import asyncio
import socket

import pytest

from tokenworks.gateway.links import CACHE_S, NAMES_MAX, LinkCheck, link_refusal

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


def checked(resolves, *batches):
    """What a check says of each batch of URLs, with what names resolve to; and how often each was asked for."""

    async def main():
        loop = asyncio.get_running_loop()
        asked = []

        async def getaddrinfo(host, port, **_):
            asked.append(host)
            found = resolves[host]
            if isinstance(found, Exception):
                raise found
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0)) for address in found]

        loop.getaddrinfo = getaddrinfo
        check = LinkCheck(loop)
        said = []
        for batch in batches:
            done = loop.create_future()
            check.check(batch, done.set_result)
            said.append(await done)
        return said, asked

    return asyncio.run(main())


def test_names_are_resolved_once_and_refused_by_their_address():
    resolves = {
        "a.example": ["8.8.8.8"],
        "b.example": ["8.8.8.8", "10.0.0.1"],
        "c.example": OSError("no such name"),
        "d.example": ["::ffff:127.0.0.1"],
    }
    said, asked = checked(
        resolves, ["https://a.example/1", "https://a.example/2"], ["https://a.example/3"], ["https://a.example/", "https://b.example/"], ["https://b.example/2"], ["https://c.example/"],
        ["https://d.example/"], ["http://8.8.8.8/"], [],
    )  # fmt: skip
    assert [reason is None for reason in said] == [True, True, False, False, True, False, True, True]
    assert asked == ["a.example", "b.example", "c.example", "d.example"]
    assert CACHE_S > 0


def test_a_name_that_resolves_too_slowly_passes(monkeypatch):
    monkeypatch.setattr("tokenworks.gateway.links.RESOLVE_S_MAX", 0.01)

    async def main():
        loop = asyncio.get_running_loop()
        never = loop.create_future()

        async def getaddrinfo(host, port, **_):
            return await never

        loop.getaddrinfo = getaddrinfo
        done = loop.create_future()
        LinkCheck(loop).check(["https://slow.example/"], done.set_result)
        return await done

    assert asyncio.run(main()) is None


def test_a_literal_address_and_too_many_names_are_refused_at_once():
    assert checked({}, ["https://[::1]/"])[0][0] is not None
    many = [f"https://h{i}.example/" for i in range(NAMES_MAX + 1)]
    said, asked = checked({}, many)
    assert said[0] is not None and asked == []
