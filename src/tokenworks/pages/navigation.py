"""The entries of the navigation, by role. Each leads to a page that this release has: a new screen adds its entry with its route."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from tokenworks.trust import Role


class Entry(NamedTuple):
    """`name`: the name of its text, and what a page passes to `render` as `page`."""

    name: str
    address: str


_HOME: Final = Entry("home", "/")
_SHOP: Final = Entry("order", "/order")
_USAGE: Final = Entry("usage", "/usage")
_KEYS: Final = Entry("keys", "/keys")
_FAMILY: Final = Entry("family", "/family")
_ALL: Final = (
    _HOME, _USAGE, _KEYS, Entry("products", "/plans"), _SHOP, _FAMILY, Entry("bill", "/bills"),
)  # fmt: skip
_STRANGER: Final = (_SHOP,)
_BY_ROLE: Final[dict[Role, Sequence[Entry]]] = {
    "owner": _ALL,
    "admin": _ALL,
    "member": (_HOME, _USAGE, _KEYS, _FAMILY),
}


STAFF_ENTRIES: Final = (Entry("ops", "/ops"),)


def entries_of(role: Role | None) -> Sequence[Entry]:
    """The navigation of a role; of None, a visitor without a session. Staff has no entries among the subscriber's pages."""
    return _STRANGER if role is None else _BY_ROLE.get(role, _STRANGER)
