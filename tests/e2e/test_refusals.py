"""A refusal says what has happened and what to do, in the client's protocol and language: nobody checks a key that is good."""

import json
import re

import pytest

from tests.e2e.test_protocols import REQUESTS
from tests.support.server import until


def ask(server, key, protocol="chat", language=None):
    path, body = REQUESTS[protocol]
    headers = {} if language is None else {"accept-language": language}
    status, content, _ = server.request("POST", path, key, {"model": "stub"} | body, headers)
    return status, json.loads(content)


def refused(server, key, code, protocol="chat", language=None):
    """The error, once the change has come to all workers."""

    def look():
        status, answer = ask(server, key, protocol, language)
        error = answer.get("error") or {}
        return (status, error) if error.get("code") == code else None

    return until(look, what=code)


@pytest.mark.parametrize("protocol", list(REQUESTS))
def test_a_frozen_account_is_told_so_and_not_to_check_its_key(server, protocol):
    subscriber, key = server.subscriber()
    assert ask(server, key, protocol)[0] == 200
    server.cli("account", "freeze", "--subscriber", str(subscriber.subscriber_id))
    status, error = refused(server, key, "account_suspended", protocol)
    assert (status, error["type"]) == (403, "permission_error")
    assert (
        "by the operator: ask its support" in error["message"]
        and "The key itself is good" in error["message"]
    )
    status, error = refused(server, key, "account_suspended", protocol, "zh-CN,zh;q=0.9")
    assert (
        status == 403
        and "由运营商暂停，请联系客服" in error["message"]
        and "密钥本身有效" in error["message"]
    )
    server.cli("account", "freeze", "--subscriber", str(subscriber.subscriber_id), "--undo")
    until(lambda: ask(server, key, protocol)[0] == 200, what="service again")


def test_a_key_that_has_ended_says_how(server):
    subscriber, key = server.subscriber()
    assert ask(server, key)[0] == 200
    (info,) = server.services.keys.of_account(subscriber.account_id, {})
    server.services.keys.revoke(info.key_id)
    status, error = refused(server, key, "key_revoked")
    assert (status, error["type"]) == (401, "authentication_error") and "was revoked" in error["message"]
    assert "已被撤销" in refused(server, key, "key_revoked", language="zh")[1]["message"]
    # To a client that asks which models there are, too.
    headers = {"anthropic-version": "2023-06-01"}
    until(
        lambda: b'"key_revoked"' in server.get("/v1/models", key, headers)[1],
        what="every worker to hear of it",
    )

    ending = server.key(subscriber, expires_in_days=1)
    assert ask(server, ending)[0] == 200
    (info,) = [one for one in server.services.keys.of_account(subscriber.account_id, {}) if one.expires_at]
    with server.connection.transaction():
        server.connection.execute(
            "UPDATE api_key SET expires_at = now() - interval '1 s' WHERE key_id = %s", (info.key_id,)
        )
        server.connection.execute(
            "INSERT INTO change (kind, ref) SELECT 'key', encode(key_mac, 'hex') FROM api_key WHERE key_id = %s",
            (info.key_id,),
        )
    assert refused(server, ending, "key_expired")[0] == 401

    last = server.key(subscriber)
    assert ask(server, last)[0] == 200
    server.services.subscriptions.close(subscriber)
    status, error = refused(server, last, "account_closed")
    assert (status, error["type"]) == (403, "permission_error") and "is closed" in error["message"]
    # A key that nobody issued is another matter.
    status, answer = ask(server, "twk_dev_" + "0" * 30 + "000000")
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key")


def test_what_is_left_is_said_in_both_languages(server):
    _, key = server.subscriber(server.sell("three-tokens", 3))
    english = refused(server, key, "nothing_left")[1]
    chinese = refused(server, key, "nothing_left", language="zh")[1]
    assert re.search(r"needs at least [\d,]+ tokens, and 3 tokens are left", english["message"])
    assert re.search(r"至少需要 [\d,]+ 词元，仅剩 3 词元", chinese["message"])
    assert {**english, "message": ""} == {**chinese, "message": ""}
