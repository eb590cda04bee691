"""The HTTP of an OpenID provider: bounded documents within a time, by the rules of `outbound`, and the client's secret."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tokenworks.app.ports.outbound import NotDelivered, exchange
from tokenworks.kernel import Unavailable
from tokenworks.trust import OidcRefused, read_private

SECRET_FILE: Final = "oidc-client-secret"  # noqa: S105 - the name of a file
DOCUMENT_BYTES_MAX: Final = 262_144
SECRET_BYTES_MAX: Final = 1024
ANSWER_S: Final = 5.0


def fetch(method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
    """A document of the provider. Its address may be private or loopback, since the operator chose the provider, and never link-local.

    Raises `Unavailable`, whose text has nothing of the document; `OidcRefused` where the provider refuses a form: its code is wrong, used
    or too old.
    """
    try:
        _, content = exchange(
            method,
            url,
            body,
            headers,
            allow_private=True,
            timeout_s=ANSWER_S,
            bytes_max=DOCUMENT_BYTES_MAX + 1,
        )
    except NotDelivered as error:
        if method == "POST" and error.status == 400:
            raise OidcRefused("the identity provider does not accept the code: begin again") from None
        raise Unavailable(f"the identity provider can't be used: {error}") from None
    if len(content) > DOCUMENT_BYTES_MAX:
        raise Unavailable(f"a document of the identity provider has more than {DOCUMENT_BYTES_MAX} bytes")
    return content


def client_secret(secrets_dir: Path) -> str | None:
    """The client's secret; None if there is no file. Read for each sign-in, so a file that is replaced is used at once.

    Raises `Unavailable` if the file cannot be used.
    """
    path = secrets_dir / SECRET_FILE
    if not path.exists():
        return None
    content = read_private(path)
    text = content[: SECRET_BYTES_MAX + 1].decode("utf-8", "replace").strip()
    if not text or len(content) > SECRET_BYTES_MAX or not text.isprintable():
        raise Unavailable(f"{path} has no client secret: one line of at most {SECRET_BYTES_MAX} bytes")
    return text
