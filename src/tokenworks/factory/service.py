"""Declaring deployments and aliases, and reading the secrets that they name."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from tokenworks.factory import store
from tokenworks.factory.errors import (
    CredentialMissing,
    DeploymentExists,
    DeploymentInvalid,
    DeploymentNotFound,
)
from tokenworks.factory.model import MODEL_PATTERN, Deployment
from tokenworks.kernel import uuid7

CREDENTIAL_CHARS_MAX: Final = 4096
DEPLOYMENTS_MAX: Final = 10_000


def make_deployment(**fields: object) -> Deployment:
    """A validated deployment. Raises `DeploymentInvalid` with the reason."""
    try:
        return Deployment.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise DeploymentInvalid(f"{where}: {reason}" if where else reason) from None


class Deployments:
    def __init__(self, connection: store.Connection) -> None:
        self._connection = connection

    def add(self, deployment: Deployment) -> None:
        """Raises `DeploymentExists`."""
        if len(store.deployments(self._connection)) >= DEPLOYMENTS_MAX:
            raise DeploymentInvalid(f"there are {DEPLOYMENTS_MAX} deployments already: remove one first")
        if not store.add_deployment(self._connection, uuid7(), deployment):
            raise DeploymentExists(
                f"there is a deployment {deployment.name} already: remove it first, or take another name"
            )

    def remove(self, name: str) -> None:
        """Requests that it serves go on to their end. Raises `DeploymentNotFound`."""
        if not store.remove_deployment(self._connection, name):
            raise DeploymentNotFound(
                f"there is no deployment {name!r}: `tokenworks deployment list` shows them"
            )

    def all(self) -> list[Deployment]:
        return store.deployments(self._connection)

    def set_alias(self, alias: str, model: str) -> None:
        """Clients may name `alias` and get `model`. Raises `DeploymentInvalid`."""
        for name in (alias, model):
            if not re.fullmatch(MODEL_PATTERN, name):
                raise DeploymentInvalid(f"not a model name: {name!r}")
        if model in store.aliases(self._connection):
            raise DeploymentInvalid(f"{model} is an alias itself: name the model it stands for")
        store.set_alias(self._connection, alias, model)

    def remove_alias(self, alias: str) -> None:
        if not store.remove_alias(self._connection, alias):
            raise DeploymentNotFound(f"there is no alias {alias!r}: `tokenworks alias list` shows them")

    def aliases(self) -> dict[str, str]:
        return store.aliases(self._connection)


def read_credential(
    reference: str | None, secrets_dir: Path, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The secret that a deployment names. Raises `CredentialMissing`; its text never contains the secret."""
    if reference is None:
        return None
    kind, _, name = reference.partition(":")
    if kind == "env":
        secret = environ.get(name, "")
        if not secret:
            raise CredentialMissing(f"the variable {name} is not set in the server's environment")
    else:
        path = secrets_dir / name
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise CredentialMissing(f"{path} can be read by others: chmod 600 it")
            secret = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CredentialMissing(f"{path} can't be read: {type(error).__name__}") from None
    if not 0 < len(secret) <= CREDENTIAL_CHARS_MAX or not secret.isascii() or not secret.isprintable():
        raise CredentialMissing(f"what {name} holds is not a credential: one line of printable ASCII")
    return secret
