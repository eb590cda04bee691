"""`GET /v1/models`: entries with the fields of both OpenAI and Anthropic, so that both SDKs' strict parsing passes."""

import json
from datetime import UTC, datetime
from typing import Final

import msgspec

from tokenworks.factory import PROTOCOLS
from tokenworks.gateway.keys import KeyEntry
from tokenworks.gateway.snapshot import Snapshot, allows

CREATED: Final = 1_767_225_600  # 2026-01-01: models have no date of their own


def _entry(name: str, snapshot: Snapshot) -> dict[str, object]:
    intent = snapshot.intents.get(name)
    models = {snapshot.resolve(name)} if intent is None else set(snapshot.models_of(intent))
    deployments = [view.deployment for view in snapshot.views if view.deployment.model in models]
    return {
        "id": name,
        "object": "model",
        "type": "model",
        "created": CREATED,
        "created_at": datetime.fromtimestamp(CREATED, UTC).isoformat().replace("+00:00", "Z"),
        "display_name": name,
        "owned_by": "tokenworks",
        "context_window": max((d.context_tokens for d in deployments), default=0),
        "max_output_tokens": max((d.max_output_tokens for d in deployments), default=0),
        "protocols": sorted(
            {protocol for protocol in PROTOCOLS for model in models if (model, protocol) in snapshot.routes}
        ),
    }


def _names(snapshot: Snapshot, user: KeyEntry) -> list[str]:
    """All names that a client may send. A wildcard alias is listed as written; a client that sends it so gets its model, too."""
    names = sorted(
        {
            *snapshot.models,
            *snapshot.intents,
            *(alias for alias, model in snapshot.aliases.items() if model in snapshot.models),
        }
    )
    return [name for name in names if _may_use(snapshot, user, name)]


def _may_use(snapshot: Snapshot, user: KeyEntry, name: str) -> bool:
    if allows(user.models, name, snapshot.resolve(name)):
        return True
    intent = snapshot.intents.get(name)
    return intent is not None and allows(user.models, *snapshot.models_of(intent))


def models_body(snapshot: Snapshot, user: KeyEntry) -> bytes:
    """The models that this key may use."""
    entries = [_entry(name, snapshot) for name in _names(snapshot, user)]
    return json.dumps(
        {
            "object": "list",
            "data": entries,
            "has_more": False,
            "first_id": entries[0]["id"] if entries else None,
            "last_id": entries[-1]["id"] if entries else None,
        }
    ).encode()


def model_body(snapshot: Snapshot, user: KeyEntry, name: str) -> bytes | None:
    """One model that this key may use, else None. A name that a wildcard alias covers is found, though the list has the alias alone."""
    model = snapshot.resolve(name)
    if (model not in snapshot.models and model not in snapshot.intents) or not _may_use(snapshot, user, name):
        return None
    return json.dumps(_entry(name, snapshot)).encode()


def with_model(body: bytes, model: str) -> bytes:
    """The body with the model that its path names (as Azure's do) in place of its own. A body that is no JSON object is returned
    unchanged; `parse_body` refuses it.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
