"""The outbox goes out: notices by webhook (signed, retried, idempotent) and to phones by the message port.

At least once: a notice is leased, sent, and marked; what dies in between is sent again with the same id.
"""

import hashlib
import hmac
import os
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import msgspec

from tokenworks.app.bootstrap import Works
from tokenworks.app.settings import Settings
from tokenworks.kernel import Unavailable, format_money
from tokenworks.subscriptions import Notice

SEND_S: Final = 5.0
DELIVER_S: Final = 10.0
BATCH: Final = 100
SECRET_BYTES: Final = 32
_TEXTS: Final = {
    (
        "spend",
        "zh",
    ): "本月随用随付已用 ¥{spent}，达到上限 ¥{cap} 的 {percent}%。可在“账单”页调整上限或锁定消费。",
    (
        "spend",
        "en",
    ): "Pay as you go has cost ¥{spent} this month, {percent}% of your cap of ¥{cap}. Change the cap, or lock spending, on the bill page.",
    ("dunning.remind", "zh"): "账单 {bill_no} 尚有 ¥{left} 未缴，请尽快缴费。",
    ("dunning.remind", "en"): "Bill {bill_no}: ¥{left} are still to be paid.",
    ("dunning.restrict", "zh"): "账单 {bill_no} 逾期未缴 ¥{left}，暂停订购与随用随付。",
    (
        "dunning.restrict",
        "en",
    ): "Bill {bill_no}: ¥{left} are overdue. Nothing more can be ordered until it is paid.",
    ("dunning.suspend", "zh"): "账单 {bill_no} 逾期未缴 ¥{left}，服务已暂停。缴费后自动恢复。",
    (
        "dunning.suspend",
        "en",
    ): "Bill {bill_no}: ¥{left} are overdue. The service is suspended until it is paid.",
    ("dunning.close", "zh"): "账单 {bill_no} 长期未缴 ¥{left}，服务已终止。",
    ("dunning.close", "en"): "Bill {bill_no}: ¥{left} were not paid. The service has ended.",
}


def text_of(kind: str, content: dict[str, Any], language: str) -> str:
    """What a phone is told."""
    return _TEXTS[kind, language].format(
        percent=content.get("percent"),
        bill_no=content.get("bill_no"),
        spent=format_money(content.get("spent_nano", 0)),
        cap=format_money(content.get("cap_nano", 0)),
        left=format_money(content.get("remaining_nano", 0)),
    )


def webhook_secret(settings: Settings) -> bytes:
    """What notices are signed with: a file of the secrets, made at the first need, mode 0600."""
    path: Path = settings.secrets / "webhook-secret"
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(file, "wb") as out:
        out.write(secrets.token_hex(SECRET_BYTES).encode())
    return path.read_bytes()


def signature(secret: bytes, at_s: int, body: bytes) -> str:
    """`t=<seconds>,v1=<HMAC-SHA256 of "<seconds>.<body>", hex>`: the receiver checks it, and that the time is near."""
    mac = hmac.new(secret, f"{at_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={mac}"


def deliver(works: Works, settings: Settings) -> int:
    """Send what is due. Returns how many arrived. Runs on many hosts at once: what one has leased the others leave."""
    if not (settings.webhook_url or settings.sms_url):
        return 0
    sent = 0
    # Other jobs wait meanwhile: a receiver that hangs has so long, and the rest is due again next time.
    until_s = time.monotonic() + DELIVER_S
    while time.monotonic() < until_s and (notices := works.notices.lease(BATCH)):
        for notice in notices:
            if time.monotonic() > until_s:
                works.notices.later(notice)
                continue
            if notice.kind.startswith("marketing.") and not works.subscriptions.agrees_to_marketing(
                notice.subscriber_id
            ):
                works.notices.dropped(notice)
                continue
            try:
                _send(works, settings, notice)
            except Unavailable:
                works.notices.failed(notice)
            else:
                works.notices.delivered(notice)
                sent += 1
    return sent


def _send(works: Works, settings: Settings, notice: Notice) -> None:
    if settings.webhook_url:
        body = msgspec.json.encode(
            {
                "id": str(notice.notification_id),
                "kind": notice.kind,
                "ref": notice.ref,
                "subscriber_id": str(notice.subscriber_id),
                "created_at": notice.created_at,
                "content": notice.content,
            }
        )
        at_s = int(works.clock.now().timestamp())
        headers = {
            "Idempotency-Key": str(notice.notification_id),
            "X-Tokenworks-Signature": signature(webhook_secret(settings), at_s, body),
        }
        _post(settings.webhook_url, body, headers)
    if not settings.sms_url:
        return
    subscriber = works.subscriptions.find_exact(str(notice.subscriber_id))
    if subscriber.phone and (notice.kind, subscriber.language) in _TEXTS:
        text = text_of(notice.kind, notice.content, subscriber.language)
        body = msgspec.json.encode({"phone": subscriber.phone, "kind": notice.kind, "text": text})
        _post(settings.sms_url, body, {"Idempotency-Key": str(notice.notification_id)})


def _post(url: str, body: bytes, headers: dict[str, str]) -> None:
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", **headers}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=SEND_S):
            return
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        raise Unavailable(f"the notice did not arrive: {error}") from error
