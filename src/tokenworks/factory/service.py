"""Declares deployments, models, intents and aliases, and reads the credentials that deployments name."""

import os
import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from psycopg import Connection
from pydantic import BaseModel, ValidationError

from tokenworks.factory import store
from tokenworks.factory.errors import (
    CredentialMissing,
    DeploymentExists,
    DeploymentInvalid,
    DeploymentNotFound,
    ModelNotFound,
)
from tokenworks.factory.facts.profiles import profile_names
from tokenworks.factory.intents.choice import Intent, ModelCard
from tokenworks.factory.model import MODEL_PATTERN, Deployment
from tokenworks.kernel import Unavailable, flaw_in, uuid7
from tokenworks.trust import read_private

CREDENTIAL_CHARS_MAX: Final = 4096
DEPLOYMENTS_MAX: Final = 10_000
MODELS_MAX: Final = 10_000
INTENTS_MAX: Final = 1_000
_Declared = TypeVar("_Declared", bound=BaseModel)


def make_deployment(**fields: object) -> Deployment:
    """A validated deployment. Raises `DeploymentInvalid` with the reason."""
    made = _make(Deployment, fields)
    if made.profile not in profile_names():
        raise DeploymentInvalid(f"there is no profile {made.profile}: there are {', '.join(profile_names())}")
    return made


def make_model(**fields: object) -> ModelCard:
    """A validated declaration of a model. Raises `DeploymentInvalid` with the reason."""
    return _make(ModelCard, fields)


def make_intent(**fields: object) -> Intent:
    """A validated intent. Raises `DeploymentInvalid` with the reason."""
    return _make(Intent, fields)


def _make(kind: type[_Declared], fields: Mapping[str, object]) -> _Declared:
    try:
        made = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise DeploymentInvalid(f"{where}: {reason}" if where else reason) from None
    for name in kind.model_fields:
        found = flaw_in(getattr(made, name))
        if found is not None:
            raise DeploymentInvalid(f"{name} has {found}: leave it out")
    return made


class Deployments:
    """The deployments, aliases, model cards and intents of one installation, on one connection."""

    def __init__(self, connection: Connection) -> None:
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
        """Remove a deployment; its requests in flight finish. Raises `DeploymentNotFound`."""
        if not store.remove_deployment(self._connection, name):
            raise DeploymentNotFound(
                f"there is no deployment {name!r}: `tokenworks deployment list` shows them"
            )

    def all(self) -> list[Deployment]:
        return store.deployments(self._connection)

    def drain(self, name: str, *, draining: bool) -> Deployment:
        """Drain a deployment (no new requests; requests in flight finish), or resume it. Raises `DeploymentNotFound`."""
        return self.change(name, draining=draining)

    def find(self, name: str) -> Deployment:
        """Raises `DeploymentNotFound`."""
        for deployment in self.all():
            if deployment.name == name:
                return deployment
        raise DeploymentNotFound(f"there is no deployment {name!r}: `tokenworks deployment list` shows them")

    def change(self, name: str, **fields: object) -> Deployment:
        """Change some fields of a deployment; requests in flight are not affected. Raises `DeploymentNotFound`, `DeploymentInvalid`."""
        found = next((deployment for deployment in self.all() if deployment.name == name), None)
        made = None if found is None else make_deployment(**(found.model_dump() | fields))
        if made is None or not store.replace_deployment(self._connection, made):
            raise DeploymentNotFound(
                f"there is no deployment {name!r}: `tokenworks deployment list` shows them"
            )
        return made

    def set_model(self, card: ModelCard) -> None:
        """Declare a model, or replace its declaration. Raises `DeploymentInvalid`."""
        known = {model.name for model in self.models()}
        if card.name not in known and len(known) >= MODELS_MAX:
            raise DeploymentInvalid(f"{MODELS_MAX} models are declared already: remove one first")
        store.set_named(self._connection, "model_card", card.name, card.model_dump_json())

    def models(self) -> list[ModelCard]:
        return [ModelCard.model_validate(content) for content in store.named(self._connection, "model_card")]

    def set_intent(self, intent: Intent) -> None:
        """Define an intent, which clients may name in place of a model, or redefine a built-in one. Raises `DeploymentInvalid`."""
        taken = {deployment.model for deployment in self.all()} | self.aliases().keys()
        if intent.name in taken:
            raise DeploymentInvalid(f"{intent.name} is a model or an alias already: take another name")
        known = {known_intent.name for known_intent in self.intents()}
        if intent.name not in known and len(known) >= INTENTS_MAX:
            raise DeploymentInvalid(f"there are {INTENTS_MAX} intents already: remove one first")
        store.set_named(self._connection, "model_intent", intent.name, intent.model_dump_json())

    def intents(self) -> list[Intent]:
        """The intents that the operator defined, without the built-in ones."""
        return [Intent.model_validate(content) for content in store.named(self._connection, "model_intent")]

    def remove_intent(self, name: str) -> None:
        """Remove an operator's intent; a built-in intent gets its own meaning back. Raises `ModelNotFound`."""
        if not store.remove_named(self._connection, "model_intent", name):
            raise ModelNotFound(f"no intent {name} was set: `tokenworks intent list` shows those that were")

    def set_alias(self, alias: str, model: str) -> None:
        """Give clients that name `alias` the model `model`. An alias that ends in `*` matches every name with that beginning that is
        neither served nor an alias; the longest matching alias counts. Raises `DeploymentInvalid`.
        """
        for name in (alias.removesuffix("*"), model):
            if not re.fullmatch(MODEL_PATTERN, name):
                raise DeploymentInvalid(f"not a model name: {name!r}")
        if model in store.aliases(self._connection):
            raise DeploymentInvalid(f"{model} is an alias itself: name the model it stands for")
        store.set_alias(self._connection, alias, model)

    def remove_alias(self, alias: str) -> None:
        """Raises `DeploymentNotFound`."""
        if not store.remove_alias(self._connection, alias):
            raise DeploymentNotFound(f"there is no alias {alias!r}: `tokenworks alias list` shows them")

    def aliases(self) -> dict[str, str]:
        return store.aliases(self._connection)


def read_credential(
    reference: str | None, secrets_dir: Path, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The credential that a deployment names. Raises `CredentialMissing`, whose text never contains the secret."""
    if reference is None:
        return None
    kind, _, name = reference.partition(":")
    if kind == "env":
        secret = environ.get(name, "")
        if not secret:
            raise CredentialMissing(f"the variable {name} is not set in the server's environment")
    else:
        path = secrets_dir / name
        if not path.exists():
            raise CredentialMissing(f"{path} is missing: write the vendor's credential into it, mode 600")
        try:
            secret = read_private(path).removeprefix(BOM_UTF8).decode("latin-1")
        except Unavailable as error:
            raise CredentialMissing(str(error)) from None
    flaw = _flaw(secret.strip())
    if flaw is not None:
        raise CredentialMissing(f"what {name} holds is no credential: {flaw}; put the credential alone there")
    return secret.strip()


def _flaw(secret: str) -> str | None:
    """Return why a text is no credential, without quoting it; None if it is one."""
    if not secret:
        return "it is empty"
    if len(secret.splitlines()) > 1:
        return f"it has {len(secret.splitlines())} lines"
    if len(secret) > CREDENTIAL_CHARS_MAX:
        return f"it has {len(secret)} characters, and {CREDENTIAL_CHARS_MAX} are the most"
    if not secret.isascii() or not secret.isprintable():
        return "it has characters other than printable ASCII"
    return None
