"""Small balances through the gateway: the camera's 100 tokens serve real small requests, and a refusal says what lacks."""

import json

import pytest

from tests.support.server import until

ASKED = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Is anybody at the door?"}]},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "Is anybody at the door?"}], "max_tokens": 50,
    },
    "/v1/responses": {"input": "Is anybody at the door?"},
}  # fmt: skip


def ask(server, key, path, **told):
    body = {"model": "stub", "user": json.dumps({"tokens": 4, "prompt": 9, **told})} | ASKED[path]
    if path == "/v1/messages":
        body["metadata"] = {"user_id": body.pop("user")}
    return server.request("POST", path, key, body)


def left(server, subscriber):
    return server.buckets(subscriber)[0].remaining // 1000


@pytest.mark.parametrize("path", list(ASKED))
def test_the_cameras_hundred_tokens_are_served(server, path):
    subscriber, key = server.subscriber("device-camera")
    status, body, _ = ask(server, key, path)
    assert status == 200, body
    (record,) = server.usage(subscriber, 1)
    used = record["fresh_input"] + record["output"]
    assert 0 < used <= 20 and record["loss"] == []
    # One after the other, until what is left is too little for another one; then it is said how much.
    served = 1
    while True:
        status, body, _ = ask(server, key, path)
        if status != 200:
            break
        served += 1
        assert served < 10
    assert served >= 3
    assert status == 402, body
    error = json.loads(body)["error"]
    server.usage(subscriber, served)
    assert error["code"] == "nothing_left" and error["unit"] == "token"
    assert error["needed"] > error["left"] == 100 - served * used >= 0
    assert f"needs at least {error['needed']} tokens" in error["message"]
    assert f"{error['left']} tokens are left" in error["message"]
    assert server.findings() == []


def test_a_refusal_says_how_pay_as_you_go_stands_in_yuan(server):
    subscriber, key = server.subscriber("device-camera")
    server.services.orders.place(subscriber, "shanghai-mobile-payg")
    big = {"max_tokens": 100, "messages": [{"role": "user", "content": "long " * 1000}]}

    def told(text):
        def is_told():
            status, body, _ = server.chat(key, **big)
            return status == 402 and text in json.loads(body)["error"]["message"]

        return until(is_told, what=text)

    told("needs consent (spill-over)")
    server.services.payg.control(subscriber, spill_over=True, cap_nano=0)
    told("pay-as-you-go buys up to 0.00 yuan a month")
    server.services.payg.control(subscriber, locked=True)
    told("pay-as-you-go is locked")


def test_a_caps_refusal_speaks_of_the_cap(server):
    subscriber, _ = server.subscriber("ctc-light")
    key = server.key(subscriber, cap_tokens=10)
    status, body, _ = ask(server, key, "/v1/chat/completions")
    error = json.loads(body)["error"]
    assert (status, error["unit"], error["left"]) == (402, "token", 10)
    assert "cap of this key or member leaves 10 tokens" in error["message"]


def test_calls_are_spoken_of_as_calls(server):
    subscriber, key = server.subscriber("unicom-coding-lite")
    assert ask(server, key, "/v1/chat/completions")[0] == 200
    server.services.orders.cancel(server.services.orders.products(subscriber)[0].product_id)

    def refused():
        status, body, _ = ask(server, key, "/v1/chat/completions")
        return status == 402 and json.loads(body)["error"]

    error = until(refused, what="the refusal")
    assert error["left"] == 0


def test_who_is_suspended_is_told_by_what(server):
    subscriber, key = server.subscriber("ctc-light")
    assert ask(server, key, "/v1/chat/completions")[0] == 200
    server.services.subscriptions.suspend(subscriber, "lost_phone")

    def refused():
        status, body, _ = ask(server, key, "/v1/messages")
        return status == 403 and json.loads(body)["error"]

    error = until(refused, what="the refusal")
    assert (error["type"], error["code"]) == ("permission_error", "account_suspended")
    assert "its phone was reported lost" in error["message"] and "key itself is good" in error["message"]
    server.services.subscriptions.lift(subscriber, "lost_phone")
    until(lambda: ask(server, key, "/v1/chat/completions")[0] == 200, what="service again")
    assert server.findings() == []
