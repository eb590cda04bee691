"""The rule for a URL to which messages are POSTed. The URL is checked when it is given; the addresses of its host are checked again at
each use (`app.ports.outbound`).
"""

from typing import Final
from urllib.parse import urlsplit

from tokenworks.factory import address_refusal, parse_address
from tokenworks.kernel import Invalid

URL_CHARS_MAX: Final = 500


def check_callback(callback: str, *, allow_private: bool, need_tls: bool) -> None:
    """Raises `Invalid` if the text is no URL of ours, has a user or a fragment, or names a loopback, private or link-local address.
    `need_tls`: only https, unless private addresses are allowed.
    """
    if len(callback) > URL_CHARS_MAX:
        raise Invalid(f"callback: a URL of at most {URL_CHARS_MAX} characters")
    try:
        parts = urlsplit(callback)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Invalid("callback: not a URL") from None
    if (
        parts.scheme not in {"http", "https"}
        or not host
        or not callback.isascii()
        or any(char <= " " or char in '\\"<>\x7f' for char in callback)
    ):
        raise Invalid("callback: a URL such as https://crm.example/events")
    if "@" in parts.netloc or parts.fragment:
        raise Invalid("callback: a URL without a user, a password or a fragment")
    if need_tls and parts.scheme != "https" and not allow_private:
        raise Invalid('callback: https outside environment = "dev", since what is sent names people')
    try:
        address = parse_address(host)
    except ValueError:
        return  # a host name: its addresses are checked at each delivery
    if address_refusal(address, allow_private=allow_private):
        raise Invalid("callback: a loopback, private or link-local address is refused")
