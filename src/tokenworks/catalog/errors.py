"""Facts about the catalogue."""

from tokenworks.kernel import Conflict, Invalid, NotFound


class CatalogueFaulty(Invalid):
    """The file is refused as a whole; its text names line and reason."""


class OfferingNotFound(NotFound):
    """No such offering."""


class OfferingNotActive(Conflict):
    """It is in study or retired: it can't be ordered."""


class OfferingChanged(Conflict):
    """The offering is not what the confirmation showed."""


class ContentChanged(Conflict):
    """A version's stored content does not match its hash: somebody wrote to the table by hand."""


class DraftNotFound(NotFound):
    """No such offering is being drafted."""


class DraftNotReady(Conflict):
    """The draft is not approved, or its approver is who drafted it."""
