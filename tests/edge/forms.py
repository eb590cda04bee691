"""The form of a case: bytes in, bytes back, what is right. Described in README.md beside this file."""

from pathlib import Path

import yaml

CASES = Path(__file__).parent / "cases"
KINDS = (
    "usage-shapes", "waived", "beyond-hold", "disconnect", "not-success", "allow-list", "client-fields", "http", "headers",
    "retry-after",
)  # fmt: skip
PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
CLASSES = (
    "fresh_input", "cached_input", "cache_write", "audio_input", "output", "reasoning", "audio_output", "cache_write_1h",
)  # fmt: skip
# Every word that a case may say; a word that is not here is a slip of the pen, and the case would prove nothing.
WORDS = {
    "id", "kind", "source", "note", "protocol", "account", "deployment", "before", "request", "at_once", "client", "upstream",
    "expect",
}  # fmt: skip
EXPECTED = {
    "status", "see", "not_see", "headers", "no_headers", "says_dropped", "attempts", "hits_of_one_place", "upstream_sees",
    "charged", "loss", "truth", "accounted", "drawn", "records", "state", "flags", "no_flags", "took_under_s", "open",
    "answers_different_ids",
}  # fmt: skip


class Unreadable(ValueError):
    """A case that is not in the form."""


def expanded(value):
    """`{$repeat: [text, n]}` as the text n times, `{$times: [item, n]}` as a list of n items."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$repeat" in value:
        text, count = value["$repeat"]
        return text * count
    if "$times" in value:
        item, count = value["$times"]
        return [expanded(item)] * count
    return {name: expanded(item) for name, item in value.items()}


def load(folder=CASES):
    """All cases of a folder, by id. Raises `Unreadable`."""
    found = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        for given in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
            check_form(given, path.name)
            if given["id"] in found:
                raise Unreadable(f"{path.name}: the id {given['id']} is there twice")
            found[given["id"]] = expanded(given)
    return found


def check_form(given, where="a case"):
    for words, known in ((given, WORDS), (given.get("expect", {}), EXPECTED)):
        if strange := set(words) - known:
            raise Unreadable(f"{where}: {given.get('id')} says {sorted(strange)}")
    for needed in ("id", "kind", "source", "protocol", "request", "expect"):
        if needed not in given:
            raise Unreadable(f"{where}: {given.get('id')} does not say its {needed}")
    if given["kind"] not in KINDS or given["protocol"] not in PATHS:
        raise Unreadable(f"{where}: {given['id']} is of no known kind or protocol")


def answers_of(told):
    """The list of answers of an `upstream`; where a case says none, an empty object."""
    return told if isinstance(told, list) else [told] if told else [{"json": {}}]
