"""Notices go out once they arrive, signed; tried again with growing waits; given up after a day."""

import hashlib
import hmac
import json
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support.spend import Spender
from tokenworks.app.ports.notify import deliver
from tokenworks.app.process.jobs import Jobs
from tokenworks.app.settings import load_settings
from tokenworks.app.webhook_secrets import webhook_secret
from tokenworks.subscriptions import Orders


@pytest.fixture
def receiver():
    """(url, requests, answers): a webhook that answers as it is told, then 204."""
    got, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, dict(self.headers), body))
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got, answers
    server.shutdown()
    server.server_close()


@pytest.fixture
def spent(services):
    """A subscriber who has come to half of the cap."""
    subscriber = services.subscriptions.register("+8613800000001", language="en")
    services.orders.place(subscriber, "shanghai-mobile-payg")
    services.connection.execute("DELETE FROM notification")  # of the order
    services.payg.control(subscriber, cap_nano=2_000_000_000)
    Spender(services).spend(subscriber.account_id, 1)
    return subscriber


def test_a_notice_is_signed_and_goes_out_once(services, spent, receiver, tmp_path, clock):
    url, got, _ = receiver
    clock.move(timedelta(hours=10))  # text messages wait for the morning
    settings = load_settings(
        {
            "data_dir": str(tmp_path),
            "webhook_url": f"{url}/hook",
            "sms_url": f"{url}/sms",
            "webhook_allow_private": True,
        }
    ).settings
    settings.secrets.mkdir(parents=True)
    assert deliver(services, settings) == 2
    assert deliver(services, settings) == 0
    (sms_path, _, sms), (path, headers, body) = got
    assert (path, sms_path) == ("/hook", "/sms")
    said = json.loads(body)
    assert (said["kind"], said["content"]["percent"]) == ("spend", 50)
    assert "13800000001" not in body.decode()
    assert headers["Idempotency-Key"] == said["id"]
    at_s, mac = (part.split("=")[1] for part in headers["X-Tokenworks-Signature"].split(","))
    secret = webhook_secret(settings)
    assert (settings.secrets / "webhook-secret").stat().st_mode & 0o777 == 0o600
    assert hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest() == mac
    assert json.loads(sms)["text"].startswith(
        "Pay as you go has cost ¥1.00 this month, 50% of your cap of ¥2.00."
    )


def test_what_does_not_arrive_is_tried_again_with_the_same_id_and_given_up_after_a_day(
    services, spent, receiver, tmp_path, clock
):
    url, got, answers = receiver
    settings = load_settings(
        {"data_dir": str(tmp_path), "webhook_url": url, "webhook_allow_private": True}
    ).settings
    settings.secrets.mkdir(parents=True)
    answers += [500] * 100
    assert deliver(services, settings) == 0
    assert deliver(services, settings) == 0
    assert len(got) == 1
    waits = []
    for _ in range(200):
        clock.move(timedelta(minutes=10))
        before = len(got)
        deliver(services, settings)
        waits.append(len(got) - before)
    assert len({headers["Idempotency-Key"] for _, headers, _ in got}) == 1
    assert 20 <= len(got) <= 40
    row = services.connection.execute("SELECT delivered_at, given_up_at FROM hub_delivery").fetchone()
    assert row[0] is None and row[1] is not None
    assert not any(waits[150:])


def test_without_a_port_notices_are_in_the_console_and_what_was_not_sent_says_why(
    services, spent, receiver, tmp_path, clock
):
    url, got, _ = receiver
    clock.move(timedelta(hours=10))
    none = load_settings({"data_dir": str(tmp_path)}).settings
    assert deliver(services, none) == 0
    (shown,), _ = services.notices.shown(spent, spent.subscriber_id)
    assert shown.kind == "spend"
    (skipped,), _ = services.notices.log(state="skipped")
    assert (skipped.channel, skipped.cause) == ("sms", "no_port")
    services.notices.resend(skipped.delivery_id)
    some = load_settings({"data_dir": str(tmp_path), "sms_url": url, "webhook_allow_private": True}).settings
    assert deliver(services, some) == 1 == len(got)


def test_a_job_that_fails_keeps_no_other_from_its_turn(
    services, spent, receiver, session_dir, database_url, monkeypatch
):
    url, got, _ = receiver
    settings = load_settings(
        {"data_dir": str(session_dir / "seed"), "webhook_url": url, "webhook_allow_private": True}
    ).settings

    def broken(_):
        raise RuntimeError("a product that nobody foresaw")

    monkeypatch.setattr(Orders, "run_cycles", broken)
    jobs = Jobs(settings, database_url)
    jobs.run()
    assert len(got) == 1
    jobs.run()
    assert len(got) == 1
    (step,) = [c for c in services.charges.of_subscriber(spent.subscriber_id) if c.kind == "step"]
    assert step.recognised_nano == step.net_nano // 400_000
