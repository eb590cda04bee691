"""The errors of the catalogue, each a named fact."""

from tokenworks.kernel import Conflict, Invalid, NotFound


class CatalogueFaulty(Invalid):
    """The catalogue file is refused as a whole; the text names the line and the reason of each fault."""


class OfferingNotFound(NotFound):
    """No such offering."""


class OfferingNotActive(Conflict):
    """The offering is in study, retired, or not on sale at this time: it can't be ordered."""


class OfferingChanged(Conflict):
    """The offering on sale is another version than the one that was shown."""


class ContentChanged(Conflict):
    """A version's stored content does not match its hash: the table was changed by hand."""


class DraftNotFound(NotFound):
    """The offering has no draft."""


class DraftNotReady(Conflict):
    """The draft is not approved, or its writer tries to approve it."""
