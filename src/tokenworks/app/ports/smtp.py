"""Sends e-mails by SMTP (RFC 5321): one connection for the mails of a turn, with TLS, a time limit for each mail, and no address in any
error's text.
"""

import contextlib
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from types import TracebackType
from typing import Final, Self

from tokenworks.app.settings import Settings
from tokenworks.kernel import Unavailable
from tokenworks.trust import SMTP, read_private

# A header of one long word, such as a link, is not folded: `email` would write it as an encoded word, which no reader takes for a link.
_POLICY: Final = SMTP_POLICY.clone(max_line_length=998)
_OK: Final = 250
_FOR_GOOD: Final = 500


class MailFailed(Unavailable):
    """A mail was not sent. `cause`: a code, such as `smtp_550`. `for_good`: the receiver will never take it. `whole`: it concerns the
    server and not this mail, so that the others wait, too.
    """

    def __init__(self, cause: str, *, for_good: bool = False, whole: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.for_good = for_good
        self.whole = whole


def mail(
    settings: Settings, to: str, subject: str, text: str, message_id: str, unsubscribe: str | None
) -> EmailMessage:
    """A mail in plain text. `message_id` stays the same for each attempt, so that a receiver can tell that two are one. `unsubscribe`: the
    URL of the link with one click (RFC 8058). Raises `ValueError` for a header with a line break, and for an address that would be read as
    another one.
    """
    message = EmailMessage(_POLICY)
    message["From"] = settings.smtp_from
    message["To"] = to
    if str(message["To"]) != to:
        raise ValueError("the address is not read as it is written")
    message["Subject"] = subject
    message["Message-ID"] = f"<{message_id}@{settings.smtp_from.rpartition('@')[2]}>"
    # RFC 3834: an automatic reply must not be sent to it.
    message["Auto-Submitted"] = "auto-generated"
    if unsubscribe is not None:
        message["List-Unsubscribe"] = f"<{unsubscribe}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(text, cte="base64")
    return message


class Mailer:
    """A connection to the SMTP server of the settings, opened at the first mail. After a failure of the server, each mail fails."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._smtp: smtplib.SMTP | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._smtp is not None:
            with contextlib.suppress(smtplib.SMTPException, OSError), self._in_time(self._smtp):
                self._smtp.quit()
            self._smtp.close()

    def send(self, message: EmailMessage) -> None:
        """Send a mail to its one receiver. Raises `MailFailed`."""
        smtp = self._smtp or self._open()
        try:
            with self._in_time(smtp):
                self._transact(smtp, message)
        except MailFailed:
            with contextlib.suppress(smtplib.SMTPException, OSError), self._in_time(smtp):
                smtp.rset()
            raise
        except (smtplib.SMTPException, OSError, ValueError, EOFError) as error:
            self._close(smtp)
            raise MailFailed(_cause(error), whole=True) from None

    def _transact(self, smtp: smtplib.SMTP, message: EmailMessage) -> None:
        code, _ = smtp.mail(self._settings.smtp_from)
        if code != _OK:
            raise MailFailed(f"smtp_{code}", whole=True)
        code, _ = smtp.rcpt(str(message["To"]))
        if code not in {_OK, 251}:
            raise MailFailed(f"smtp_{code}", for_good=code >= _FOR_GOOD)
        code, _ = smtp.data(message.as_bytes())
        if code != _OK:
            raise MailFailed(f"smtp_{code}", for_good=code >= _FOR_GOOD)

    def _open(self) -> smtplib.SMTP:
        """Connect, begin TLS and sign in. Raises `MailFailed`."""
        settings, timeout_s = self._settings, float(self._settings.smtp_timeout_s)
        if settings.smtp_user and settings.smtp_tls == "none":
            raise MailFailed("smtp_user_without_tls", whole=True)
        context = ssl.create_default_context(
            cafile=None if settings.smtp_ca_file is None else str(settings.smtp_ca_file)
        )
        name = settings.smtp_from.rpartition("@")[2]
        smtp = (
            _TlsConnection(settings.smtp_host, name, timeout_s, context)
            if settings.smtp_tls == "tls"
            else _Connection(settings.smtp_host, name, timeout_s)
        )
        try:
            with self._in_time(smtp):
                code, _ = smtp.connect(settings.smtp_host, settings.smtp_port)
                if code != 220:
                    raise MailFailed(f"smtp_{code}", whole=True)
                if settings.smtp_tls == "starttls":
                    # Raises if the server does not offer it: no mail goes without TLS because a reply was changed on its way.
                    code, _ = smtp.starttls(context=context)
                    if code != 220:
                        raise MailFailed(f"smtp_{code}", whole=True)
                smtp.ehlo_or_helo_if_needed()
                if settings.smtp_user:
                    password = read_private(settings.secrets / SMTP).decode().strip()
                    smtp.login(settings.smtp_user, password)
        except MailFailed:
            self._close(smtp)
            raise
        except (smtplib.SMTPException, OSError, ValueError, EOFError, Unavailable) as error:
            self._close(smtp)
            raise MailFailed(_cause(error), whole=True) from None
        self._smtp = smtp
        return smtp

    def _close(self, smtp: smtplib.SMTP) -> None:
        smtp.close()
        self._smtp = None

    @contextlib.contextmanager
    def _in_time(self, smtp: smtplib.SMTP) -> Iterator[None]:
        """A time limit for the whole exchange: the socket's own limit is for each read, and a server may answer byte by byte."""
        over = threading.Timer(self._settings.smtp_timeout_s, _shut, (smtp,))
        over.daemon = True
        over.start()
        try:
            yield
        finally:
            over.cancel()


class _Connection(smtplib.SMTP):
    """A connection that is not made yet. `smtplib` checks the certificate against `_host`, which it sets only where it connects at
    once.
    """

    def __init__(self, host: str, name: str, timeout_s: float) -> None:
        super().__init__(local_hostname=name, timeout=timeout_s)
        self._host = host


class _TlsConnection(smtplib.SMTP_SSL):
    """As `_Connection`, with TLS from the first byte."""

    def __init__(self, host: str, name: str, timeout_s: float, context: ssl.SSLContext) -> None:
        super().__init__(local_hostname=name, timeout=timeout_s, context=context)
        self._host = host


def _shut(smtp: smtplib.SMTP) -> None:
    sock = smtp.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _cause(error: Exception) -> str:
    """A code for an error: an error's own text may quote an address."""
    if isinstance(error, smtplib.SMTPResponseException):
        return f"smtp_{error.smtp_code}"
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "smtp_no_tls_or_auth"
    if isinstance(error, ssl.SSLError):
        return "smtp_tls"
    if isinstance(error, Unavailable):
        return "smtp_password"
    return "no_answer"


__all__ = ["MailFailed", "Mailer", "mail"]
