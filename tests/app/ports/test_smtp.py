"""Mails go by TLS, in their time, to one receiver; no text of ours or of a customer adds a header, and no error quotes an address."""

import time

import pytest

from tests.support.smtp import SmtpServer, certificate
from tokenworks.app.ports.smtp import Mailer, MailFailed, mail
from tokenworks.app.settings import load_settings

LINK = f"https://tokens.carrier.example/api/notices/unsubscribe?token={'x' * 150}"


def settings_of(server, tmp_path, **more):
    return load_settings({"data_dir": str(tmp_path), **server.settings(), **more}).settings


def a_mail(settings, to="li@example.com", subject="Carrier: 账单已出"):
    return mail(settings, to, subject, "账单 1 已出。\n.\nsecond line\n", "id-1", LINK)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_mail_arrives_by_tls_with_a_link_that_readers_take_as_one(tmp_path, tls):
    with SmtpServer(tmp_path, tls, ("me", "p4ss")) as server:
        settings = settings_of(server, tmp_path, smtp_user="me")
        settings.secrets.mkdir(parents=True)
        (settings.secrets / "smtp-password").write_text("p4ss\n")
        (settings.secrets / "smtp-password").chmod(0o600)
        with Mailer(settings) as mailer:
            mailer.send(a_mail(settings))
            mailer.send(a_mail(settings, "wu@example.com"))
    (to, content, first), (other, _, _) = server.mails
    assert (to, other, server.connections) == (["li@example.com"], ["wu@example.com"], 1)
    assert first["Subject"] == "Carrier: 账单已出"
    assert first.get_content().splitlines() == ["账单 1 已出。", ".", "second line"]
    # RFC 8058: both headers, the link in one piece.
    assert f"List-Unsubscribe: <{LINK}>\r\n".encode() in content
    assert first["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert first["Message-ID"] == "<id-1@carrier.example>"
    assert server.commands[-1] == "QUIT"


def test_without_tls_nothing_is_sent(tmp_path):
    with SmtpServer(tmp_path, "none", ("me", "p4ss")) as server:
        # A man in the middle takes STARTTLS out of the answer.
        settings = settings_of(server, tmp_path, smtp_tls="starttls")
        with Mailer(settings) as mailer, pytest.raises(MailFailed, match="smtp_no_tls_or_auth"):
            mailer.send(a_mail(settings))
        settings = settings_of(server, tmp_path, smtp_user="me")
        with Mailer(settings) as mailer, pytest.raises(MailFailed, match="smtp_user_without_tls"):
            mailer.send(a_mail(settings))
    assert not any(words.startswith(("MAIL", "AUTH", "RCPT")) for words in server.commands)


def test_the_certificate_is_checked_for_the_host(tmp_path):
    with SmtpServer(tmp_path) as server:
        server.ca, server.both = certificate(tmp_path, "other.example")
        settings = settings_of(server, tmp_path)
        with Mailer(settings) as mailer, pytest.raises(MailFailed, match="smtp_tls") as failed:
            mailer.send(a_mail(settings))
    assert failed.value.whole and not server.mails


@pytest.mark.parametrize(
    ("answers", "cause", "for_good", "whole"),
    [
        ({"RCPT": ["550 no li@example.com here"]}, "smtp_550", True, False),
        ({"RCPT": ["450 busy"]}, "smtp_450", False, False),
        ({"END": ["554 spam"]}, "smtp_554", True, False),
        ({"END": ["451 later"]}, "smtp_451", False, False),
        ({"MAIL": ["530 who are you"]}, "smtp_530", False, True),
    ],
)
def test_an_answer_says_whom_it_concerns_and_is_not_quoted(tmp_path, answers, cause, for_good, whole):
    with SmtpServer(tmp_path) as server:
        settings = settings_of(server, tmp_path)
        with Mailer(settings) as mailer:
            server.answers = answers
            with pytest.raises(MailFailed) as failed:
                mailer.send(a_mail(settings))
            error = failed.value
            assert (str(error), error.for_good, error.whole) == (cause, for_good, whole)
            # The next one is not concerned.
            mailer.send(a_mail(settings, "wu@example.com"))
    assert [to for to, _, _ in server.mails] == [["wu@example.com"]]


def test_a_server_that_drips_is_left_when_its_time_is_over(tmp_path):
    with SmtpServer(tmp_path) as server:
        settings = settings_of(server, tmp_path, smtp_timeout_s=1)
        server.drips.set()
        begun = time.monotonic()
        with Mailer(settings) as mailer, pytest.raises(MailFailed):
            mailer.send(a_mail(settings))
        assert time.monotonic() - begun < 4


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_no_text_adds_a_header_or_a_receiver(tmp_path, end):
    with SmtpServer(tmp_path) as server:
        settings = settings_of(server, tmp_path)
        with pytest.raises(ValueError):
            a_mail(settings, subject=f"hello{end}Bcc: all@example.com")
        with pytest.raises(ValueError):
            a_mail(settings, to=f"li@example.com{end}Bcc: all@example.com")
        for to in ("=?utf-8?b?5byg?=@example.com", "=?x?q?all?=@example.com"):
            with pytest.raises(ValueError):
                a_mail(settings, to=to)
        body = mail(settings, "li@example.com", "s", f"x{end}.{end}MAIL FROM:<a@b.example>{end}", "id", None)
        with Mailer(settings) as mailer:
            mailer.send(body)
    assert [to for to, _, _ in server.mails] == [["li@example.com"]]
    assert sum(words.startswith("MAIL") for words in server.commands) == 1
