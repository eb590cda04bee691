"""What a vendor says is of a kind; its customer hears what can be acted on, and not who said it."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenworks.gateway.protocol.outcome import fault_of_body
from tokenworks.gateway.protocol.vendor_errors import (
    RETRY_AFTER_S_MAX,
    THE_PROVIDER,
    Fault,
    clean_text,
    refusal_of,
    retry_after_s,
    wait_s,
    without_vendor,
)

NOW = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()


def after(seconds):
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(("headers", "seconds"), [
    ({"retry-after": "20"}, 20), ({"Retry-After": "20"}, 20), ({"RETRY-AFTER": " 20 "}, 20), ({"retry-after": "1.5"}, 1.5), ({"retry-after": "20s"}, 20),
    ({"retry-after": "0"}, 0), ({"retry-after": "-3"}, 0), ({"retry-after": "999999"}, RETRY_AFTER_S_MAX),
    ({"retry-after": format_datetime(after(20), usegmt=True)}, 20),
    ({"retry-after": "Thursday, 26-Nov-26 12:00:20 GMT"}, 20), ({"retry-after": "Thu Nov 26 12:00:20 2026"}, 20),
    ({"retry-after": format_datetime(after(-20), usegmt=True)}, 0),
    # The answer's own clock is an hour ahead: the time between its dates counts.
    ({"retry-after": format_datetime(after(3620), usegmt=True), "date": format_datetime(after(3600), usegmt=True)}, 20),
    ({"retry-after-ms": "6500"}, 6.5), ({"Retry-After-Ms": "250", "retry-after": "20"}, 0.25), ({"retry-after-ms": "soon", "retry-after": "20"}, 20),
    ({"x-ratelimit-reset-requests": "1s"}, 1), ({"x-ratelimit-reset-tokens": "6m0s"}, 360), ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
    ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3600), ({"x-ratelimit-reset": "59"}, 59),
    ({"x-ratelimit-reset": str(int(NOW_S) + 30)}, 30), ({"X-RateLimit-Reset": str(int(NOW_S * 1000) + 30_000)}, 30),
    ({"anthropic-ratelimit-tokens-reset": "2026-11-26T12:00:45Z"}, 45), ({"ratelimitbysize-reset": "12"}, 12),
    ({"ratelimit": "limit=10, remaining=0, reset=50"}, 50), ({"RateLimit": '"default";r=0;t=30'}, 30),
    # The limit with nothing left counts, not the one that is full again sooner.
    ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "12", "x-ratelimit-reset-tokens": "40s", "x-ratelimit-remaining-tokens": "0"}, 40),
    ({"anthropic-ratelimit-requests-reset": "2026-11-26T12:00:45Z", "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-tokens-reset": "2026-11-26T12:00:05Z"}, 45),
    ({"x-ratelimit-reset-requests": "9s", "x-ratelimit-reset-tokens": "3s"}, 3),
    ({"retry-after": "20", "x-ratelimit-reset-tokens": "6m0s"}, 20),
    ({}, None), ({"retry-after": "later"}, None), ({"retry-after": ""}, None), ({"x-ratelimit-limit-requests": "100"}, None), ({"date": "2026"}, None),
    ({"retry-after": "later", "x-ratelimit-reset": "7"}, 7),
])  # fmt: skip
def test_when_to_come_back(headers, seconds):
    given_headers = {name.encode(): value.encode() for name, value in headers.items()}
    found = retry_after_s(given_headers, NOW_S)
    assert found == (None if seconds is None else pytest.approx(seconds, abs=0.01))


@given(
    st.dictionaries(
        st.sampled_from(
            [
                b"retry-after",
                b"Retry-After-Ms",
                b"x-ratelimit-reset-tokens",
                b"ratelimit",
                b"date",
                b"x-ratelimit-remaining-tokens",
            ]
        ),
        st.binary(max_size=40),
    )
)
def test_whatever_a_header_says_it_is_bounded(headers):
    found = retry_after_s(headers, NOW_S)
    assert found is None or 0 <= found <= RETRY_AFTER_S_MAX


@given(st.floats(0, 3000, allow_nan=False))
def test_seconds_are_seconds_however_they_are_written(seconds):
    text = f"{seconds:.3f}"
    assert wait_s(text, NOW_S) == pytest.approx(float(text))
    assert wait_s(f"{text}s", NOW_S) == pytest.approx(float(text))
    assert wait_s(f"{int(seconds * 1000)}ms", NOW_S) == pytest.approx(int(seconds * 1000) / 1000)


# (status, error, kind): the facts of the vendors' documents.
KINDS = [
    (429, {"code": "insufficient_quota", "type": "insufficient_quota", "message": "You exceeded your current quota"}, "quota"),
    (429, {"type": "exceeded_current_quota_error", "message": "x"}, "quota"), (402, {"message": "Insufficient Balance"}, "quota"),
    (400, {"code": "Arrearage", "message": "x"}, "quota"), (403, {"code": "AccountOverdueError", "message": "x"}, "quota"),
    (429, {"code": "1113", "message": "余额不足"}, "quota"), (400, {"type": "invalid_request_error", "message": "Your credit balance is too low"}, "quota"),
    (429, {"code": "rate_limit_exceeded", "type": "tokens", "message": "slow down"}, "rate"), (429, {"type": "rate_limit_error", "message": "x"}, "rate"),
    (429, {"code": "Throttling.RateQuota", "message": "x"}, "rate"), (429, {"code": "ModelAccountTpmRateLimitExceeded", "message": "x"}, "rate"),
    (429, {"code": "rpm_rate_limit_exceeded", "message": "x"}, "rate"), (429, {"code": "1302", "message": "x"}, "rate"), (429, {}, "rate"),
    (429, {"type": "engine_overloaded_error", "message": "x"}, "overloaded"), (529, {"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
    (498, {"code": "capacity_exceeded", "message": "x"}, "overloaded"), (503, {"type": "unavailable_error", "message": "loading model"}, "overloaded"),
    (400, {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "x"}, "moderation"),
    (400, {"code": "DataInspectionFailed", "message": "x"}, "moderation"), (400, {"type": "unsafe_request", "message": "x"}, "moderation"),
    (400, {"code": "InputTextRiskDetection", "message": "x"}, "moderation"), (451, {"message": "x"}, "moderation"),
    (403, {"code": "content_policy_violation", "type": "invalid_request_error", "message": "x"}, "moderation"),
    (403, {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["x"]}}, "moderation"), (400, {"code": "1301", "message": "敏感内容"}, "moderation"),
    (400, {"type": "invalid_request_error", "message": "messages: field required"}, "client"), (422, {"message": "Extra inputs are not permitted"}, "client"), (422, {"type": "extra_forbidden", "message": "x"}, "client"),
    (400, {"code": "InvalidParameter", "message": "temperature"}, "client"), (413, {"type": "request_too_large", "message": "x"}, "client"),
    (400, {"code": "context_length_exceeded", "message": "x"}, "context"), (400, {"type": "exceed_context_size_error", "message": "x"}, "context"),
    (400, {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}, "context"),
    (400, {"code": "InvalidParameter", "message": "Range of input length should be [1, 30720]"}, "context"),
    (400, {"type": "BadRequestError", "code": 400, "message": "This model's maximum context length is 4096 tokens."}, "context"),
    (403, {"message": "The input token count exceeds the context window"}, "context"), (400, {"type": "invalid_request_error", "message": "exceeded model token limit: 8192"}, "context"),
    (401, {"type": "authentication_error", "message": "invalid x-api-key"}, "server"), (403, {"type": "permission_error", "message": "x"}, "server"),
    (400, {"code": "invalid_api_key", "message": "API key not valid"}, "server"), (404, {"code": "model_not_found", "type": "invalid_request_error", "message": "x"}, "server"),
    (401, {"code": "mismatched_organization", "type": "invalid_request_error", "message": "x"}, "server"), (500, {"message": "x"}, "server"),
    (500, {"type": "server_error", "message": "the request is too long for the context window of a cache"}, "server"), (404, {}, "server"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "error", "kind"), KINDS)
def test_of_which_kind_it_is(status, error, kind):
    found = fault_of_body(status, json.dumps({"error": error}).encode(), "chat")
    if kind == "context":
        assert (found.kind, found.code) == ("client", "context_length_exceeded")
    else:
        assert found.kind == kind
    refusal = refusal_of(found, names=["openai"], model="shop/m")
    assert (refusal is not None) == (kind in {"client", "moderation", "context"})


def refusal(kind="client", status=400, code="x", message="", **more):
    return refusal_of(
        Fault(kind, status, code, message), **({"names": ["acmecloud"], "model": "shop/best"} | more)
    )


def test_moderation_is_said_on_without_the_vendor():
    said = refusal(
        "moderation", 403, "content_policy_violation",
        "the prompt was refused by the content policy of AcmeCloud, see https://api.acmecloud.example/policy",
    )  # fmt: skip
    assert (said.status, said.code) == (403, "content_policy_violation")
    assert (
        said.message == f"content policy: the prompt was refused by the content policy of {THE_PROVIDER}, see"
    )
    assert refusal("moderation", 451).status == 400


def test_a_context_that_is_too_long_keeps_its_code():
    said = refusal(
        code="context_length_exceeded", message="This model's maximum context length is 4096 tokens."
    )
    assert (said.status, said.code) == (400, "context_length_exceeded")
    assert said.message == "This model's maximum context length is 4096 tokens."
    assert "shop/best" in refusal(code="context_length_exceeded").message


def test_other_refusals_have_our_code():
    assert refusal(status=422, message="n must be 1").status == 422
    assert refusal(status=415, message="n must be 1")[:3] == (400, "refused_by_model", "n must be 1")
    assert refusal(message="").message == "shop/best does not take this request"
    for kind in ("rate", "quota", "overloaded", "server"):
        assert refusal(kind) is None


@pytest.mark.parametrize(("message", "expected"), [
    ("Invalid value for 'messages.1.content.0.type'", None), ("`temperature` must be between 0.0 and 2.0", None),
    ("tool_use ids without tool_result: toolu_01A2B3C4D5", None), ("file is e.g. too large, 12.5 MB of 10 MB", None), ("messages: text content blocks must be non-empty", None),
    ("gpt-4.1-mini does not support images", None),
    ("AcmeCloud says no", f"{THE_PROVIDER} says no"), ("acme cloud, Acme-Cloud and ACMECLOUD", f"{THE_PROVIDER}, {THE_PROVIDER} and {THE_PROVIDER}"),
    ("Contact support@acmecloud.com or see http://10.1.2.3:8000/v1/x?y=1.", "Contact or see"),
    ("no route to llm-7.internal:8000/v1 from 10.1.2.3:443", "no route to from"),
    ("Rate limit in organization org-Abc123DEF456 (request id: 20260101abcdef)", "Rate limit in organization"),
    ("bad field, Request ID: req_0123456789abcdef", "bad field"),
    ("key sk-proj-AbCdEf123456 is wrong for 6f9619ff-8b86-d011-b42d-00cf4fc964ff", "key is wrong for"),
    ("see [::ffff:10.0.0.1]:80 and platform.acmecloud.cn/docs/errors#limit", "see and"),
])  # fmt: skip
def test_what_names_the_vendor_is_taken_out(message, expected):
    assert without_vendor(message, ["acmecloud"]) == (message if expected is None else expected)


def test_the_model_has_the_name_it_was_asked_by():
    said = refusal(message="Vendor-Secret-7B takes no images", upstream_model="vendor-secret-7b")
    assert said.message == "shop/best takes no images"


def test_names_are_words():
    assert (
        without_vendor("metadata of meta is not metamorphic", ["meta"])
        == f"metadata of {THE_PROVIDER} is not metamorphic"
    )
    assert without_vendor("智谱 refuses", ["智谱"]) == f"{THE_PROVIDER} refuses"
    assert without_vendor("x.ai and xai", ["xAI", ""]) == f"and {THE_PROVIDER}"


@given(st.text(), st.sampled_from(["AcmeCloud", "ACMECLOUD", "acme cloud"]), st.text())
def test_the_name_never_gets_through(before, name, after):
    said = without_vendor(f"{before} {name} {after}", ["acmecloud"])
    assert "acmecloud" not in said.lower().replace(" ", "").replace(
        THE_PROVIDER.replace(" ", ""), ""
    ) or "acmecloud" in f"{before}{after}".lower().replace(" ", "")
    assert said.isprintable() and len(said) <= 500


@given(st.text())
def test_no_control_character_gets_through(text):
    assert clean_text(text).isprintable()
    assert clean_text(clean_text(text)) == clean_text(text)
