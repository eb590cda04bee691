"""The embedded database under the name, and with the rights, that code outside of this repository uses since release 0.1.

New code uses `tokenworks.testing.embedded`.
"""

import contextlib
from collections.abc import Iterator

from tokenworks.app.database import embedded


class Embedded(embedded.Embedded):
    """`use` yields the URL of the owner, who may make databases."""

    @contextlib.contextmanager
    def use(self) -> Iterator[str]:
        """The owner's URL. The server runs while this context lasts."""
        with super().use():
            yield self.owner_url
