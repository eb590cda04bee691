"""The embedded database under the name and with the rights that checks from outside have known it by since release 0.1.

`tokenworks.testing.embedded` is the door for new ones.
"""

import contextlib
from collections.abc import Iterator

from tokenworks.app.database import embedded


class Embedded(embedded.Embedded):
    """`use` yields the URL of the owner, who may make databases."""

    @contextlib.contextmanager
    def use(self) -> Iterator[str]:
        """The owner's URL, up as long as this context lasts."""
        with super().use():
            yield self.owner_url
