"""Writes docs/TRANSLATION.md from the codecs' data: `python -m tokenworks.gateway.translate.docs > docs/TRANSLATION.md`. A test fails
if the file differs.
"""

from collections.abc import Iterator
from importlib.resources import files
from typing import Final

import msgspec
import yaml

from tokenworks.factory.facts.profiles import LOADER
from tokenworks.gateway.translate.directions import DIRECTIONS

FORMAT: Final = "tokenworks-translation/1"
KINDS: Final = ("carried", "approximated", "refused", "dropped")
_HEAD: Final = """# Translation between protocols

Written from `src/tokenworks/gateway/translate/*/fields.yaml` by `python -m tokenworks.gateway.translate.docs`; do not edit it here.

A model that no deployment serves over the client's protocol is served by translation between `chat`, `messages` and `responses`. A
deployment that speaks the client's protocol comes first, and its bytes are relayed; another one gets a request only if none of the first
can take it. Completions and embeddings are not translated.

| client's protocol | deployments that are tried, by the first of these protocols that they speak |
|---|---|
{directions}

- **Headers**: a translated answer has `x-tokenworks-translated` with the deployment's protocol. Fields that are not carried are named in
  `x-tokenworks-dropped`, beside those that the allow-lists remove ([FIELDS.md](FIELDS.md)): first as the client's protocol names them, then
  as the deployment's does.
- **What can't be expressed** is refused before anything is sent: 400 `untranslatable`, with the field as `param`. Ids of an upstream's
  objects (`previous_response_id`, a `file_id`) never go to a deployment of another protocol.
- **Both allow-lists hold**: the client's body loses first what its own protocol's list does not have. The translated body is then read by
  the list of the deployment's protocol and rendered for its profile, like a client's. URLs of media are those of the client, which were
  checked.
- **Usage and charge** are those of the upstream's own bytes, which are metered before they are translated, as for a native client: the
  record's protocol is the deployment's. A client gets the provider's counts in its own protocol's fields or, if the provider reports none,
  those of the record.
- **The hold** covers the larger of both bodies by the bound from bytes ([BOUNDS.md](BOUNDS.md)). A protocol that requires a maximum
  (`messages`) gets the deployment's largest output if the client named none.
- **Streams** are translated event by event. A stream that reaches its maximum, or the end of what is left, is closed as its protocol
  closes one that reached a length limit, and then says why. A stream that breaks off ends with an error, and its open blocks stay open, so
  that no client takes half a tool call for a whole one.
- **`count_tokens`** is answered by the model's tokenizer; without one, and without a deployment that speaks messages, by an estimate of
  four bytes per token. `x-tokenworks-counted` says which (`tokenizer`, `estimate`).
- **Reasoning** that only its provider can read (signatures, encrypted content) is sent back if all deployments of the model have one
  profile.

| in the tables | meaning |
|---|---|
| carried | arrives with the same meaning |
| approximated | arrives as nearly as the other protocol can say it |
| refused | 400 `untranslatable` |
| dropped | not sent, and named in `x-tokenworks-dropped` |
"""
_Entry = str | dict[str, str]


class TranslationFile(msgspec.Struct, forbid_unknown_fields=True):
    """What one codec carries. `reads`: by level of the protocol's allow-list and field; `writes`: by field of the intermediate form, for
    what the other protocols have. An entry is a kind alone, or a kind with the way.
    """

    format: str
    protocol: str
    reads: dict[str, dict[str, _Entry]]
    writes: dict[str, _Entry]


def load(protocol: str) -> TranslationFile:
    """The data of one codec. Raises if it is faulty; a test reads all of it."""
    text = (files("tokenworks.gateway.translate") / protocol / "fields.yaml").read_text(encoding="utf-8")
    content = msgspec.convert(yaml.load(text, Loader=LOADER), TranslationFile)  # noqa: S506  (a safe loader)
    assert content.format == FORMAT and content.protocol == protocol
    return content


def reference() -> str:
    """The text of docs/TRANSLATION.md."""
    directions = "\n".join(f"| {client} | {', '.join(DIRECTIONS[client])} |" for client in DIRECTIONS)
    lines = [_HEAD.format(directions=directions)]
    for protocol in DIRECTIONS:
        content = load(protocol)
        lines += [
            f"## From {protocol}",
            "",
            f"Requests of clients that speak {protocol}, and answers of deployments that do.",
            "",
        ]
        for level, fields in content.reads.items():
            lines += [f"### {protocol}: {level}", "", *_table(fields), ""]
        lines += [
            f"## Into {protocol}",
            "",
            f"What {protocol} has for the fields of the intermediate form (`translate/form.py`).",
            "",
        ]
        lines += [*_table(content.writes), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(fields: dict[str, _Entry]) -> Iterator[str]:
    """Rows of fields with the same kind and way stand together, in the order of their first field."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, entry in fields.items():
        kind, how = (entry, "") if isinstance(entry, str) else next(iter(entry.items()))
        assert kind in KINDS, (name, kind)
        groups.setdefault((kind, how), []).append(f"`{name}`")
    yield "| fields | what happens | how |"
    yield "|---|---|---|"
    for (kind, how), names in groups.items():
        yield f"| {', '.join(names)} | {kind} | {how} |"


if __name__ == "__main__":
    print(reference(), end="")
