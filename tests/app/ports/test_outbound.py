"""What we send goes where it was allowed, once, and takes no longer than it may."""

import time

import pytest

from tests.support.receiver import Receiver
from tokenworks.app.ports.messages import code_sender
from tokenworks.app.ports.outbound import NotDelivered, post
from tokenworks.app.settings import load_settings, shown, without_secrets
from tokenworks.kernel import Unavailable


@pytest.fixture
def receiver():
    with Receiver() as made:
        yield made


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(receiver, status):
    receiver.answers.append((status, {"location": f"{receiver.url}/elsewhere"}, b""))
    with pytest.raises(NotDelivered, match="redirect") as caught:
        post(f"{receiver.url}/hook?token=s3cret", b"{}", {}, allow_private=True)
    assert caught.value.status == status
    assert [path for path, _, _ in receiver.got] == ["/hook?token=s3cret"]
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "169.254.169.254",
    ],
)
def test_addresses_pass_the_rules_of_deployments(receiver, host):
    port = receiver.url.rpartition(":")[2]
    with pytest.raises(NotDelivered):
        post(f"http://{host}:{port}/hook", b"{}", {}, allow_private=False, timeout_s=1)
    assert receiver.got == []


def test_a_link_local_address_is_never_asked():
    with pytest.raises(NotDelivered, match="link-local"):
        post("http://169.254.169.254/latest", b"{}", {}, allow_private=True)


def test_an_answer_in_drops_is_over_when_its_time_is(receiver):
    receiver.drips.set()
    begun = time.monotonic()
    with pytest.raises(NotDelivered, match="too long"):
        post(receiver.url, b"{}", {}, allow_private=True, timeout_s=0.5)
    assert time.monotonic() - begun < 3


def test_a_large_answer_is_not_read_to_its_end(receiver):
    receiver.answers.append((200, {}, b"x" * 1_000_000))
    status, content = post(receiver.url, b"{}", {}, allow_private=True)
    assert (status, len(content)) == (200, 65_536)


def test_a_user_in_the_address_is_sent_as_one(receiver):
    post(receiver.url.replace("//", "//me:p%40ss@"), b"{}", {}, allow_private=True)
    (_, headers, _) = receiver.got[0]
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="


def test_one_time_codes_follow_no_redirect(receiver, tmp_path):
    receiver.answers.append((302, {"location": f"{receiver.url}/elsewhere"}, b""))
    settings = load_settings(
        {"data_dir": str(tmp_path), "sms_url": f"{receiver.url}/sms", "webhook_allow_private": True}
    ).settings
    with pytest.raises(Unavailable):
        code_sender(settings)("+8613800000001", "123456")
    assert [path for path, _, _ in receiver.got] == ["/sms"]
    code_sender(settings)("+8613800000001", "123456")
    with pytest.raises(Unavailable):
        code_sender(settings.model_copy(update={"webhook_allow_private": False}))("+8613800000001", "123456")
    assert len(receiver.got) == 2


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("https://u:p@h.example/a?token=x&b=2#f", "https://****@h.example/a?token=****&b=****#****"),
        ("https://hooks.example/services/T024BE7LD000/B0/XXyy12ZZaa34bb", "https://hooks.example/services/****/B0/****"),
        ("https://h.example/notices", "https://h.example/notices"),
        ("https://h.example/?justkey", "https://h.example/?****"),
        ("broadband=https://k@a.example/x security=https://b.example?k=v", "broadband=https://****@a.example/x security=https://b.example?k=****"),
    ],
)  # fmt: skip
def test_secrets_inside_of_urls_are_masked(text, want):
    assert without_secrets(text) == want
    assert shown("webhook_url", text) == want
