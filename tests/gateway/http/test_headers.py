"""Headers pass by allow-list, both ways."""

from dataclasses import dataclass

from tokenworks.gateway.http.head import parse_head
from tokenworks.gateway.http.headers import forwarded, relayed, response_lines


@dataclass(frozen=True)
class Rules:
    request_headers: tuple[str, ...] = ()
    response_headers: tuple[str, ...] = ()
    betas: tuple[str, ...] = ()


HEAD = parse_head(
    b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nAnthropic-Version: 2023-06-01\r\n"
    b"anthropic-beta: one-1, fast-mode-2\r\nOpenAI-Organization: org-x\r\nOpenAI-Project: p\r\nX-Stainless-OS: Linux\r\n"
    b"User-Agent: me\r\nIdempotency-Key: k\r\nTraceparent: 00-1\r\nContent-Type: text/plain\r\nX-Api-Key: k\r\nCookie: a=b\r\n"
    b"X-DashScope-Async: enable\r\nContent-Encoding: gzip\r\nVia: 1.1 x\r\n\r\n",
    100,
)


def names(lines):
    return {line.split(b":")[0] for line in lines.split(b"\r\n") if line}


def test_of_a_client_passes_what_says_nothing_of_who_it_is():
    assert names(forwarded(HEAD)) == {b"content-type", b"accept", b"anthropic-version", b"traceparent"}
    assert b"content-type: application/json\r\n" in forwarded(HEAD)


def test_a_profile_adds_headers_and_names_the_betas():
    lines = forwarded(HEAD, Rules(request_headers=("x-dashscope-async",), betas=("one-1",)))
    assert b"x-dashscope-async: enable\r\n" in lines
    assert b"anthropic-beta: one-1\r\n" in lines
    assert b"fast-mode" not in lines


def test_of_an_upstream_passes_what_is_about_the_answer():
    headers = {
        b"Content-Type": b"application/json", b"X-RateLimit-Limit-Requests": b"1", b"openai-organization": b"o", b"cf-ray": b"x", b"Via": b"x",
        b"Set-Cookie": b"a=b", b"access-control-allow-origin": b"*", b"x-litellm-model-api-base": b"http://10.0.0.1", b"x-envoy-x": b"1",
        b"www-authenticate": b"Basic", b"clear-site-data": b"*", b"x-tokenworks-choice": b"forged", b"request-id": b"r", b"Cache-Control": b"no-cache",
        b"connection": b"close", b"content-length": b"4", b"X-Vendor-Speed": b"9", b"Server": b"x", b"retry-after": b"9",
    }  # fmt: skip
    assert b"".join(response_lines(headers)) == b"cache-control: no-cache\r\n"
    with_more = b"".join(response_lines(headers, Rules(response_headers=("x-vendor-speed", "cache-control"))))
    assert with_more == b"cache-control: no-cache\r\nx-vendor-speed: 9\r\n"


def test_the_control_plane_gets_what_is_not_a_credential_of_the_data_plane():
    lines = relayed(HEAD)
    assert b"user-agent: me\r\n" in lines
    assert not names(lines) & {b"host", b"x-api-key", b"cookie", b"content-encoding"}
