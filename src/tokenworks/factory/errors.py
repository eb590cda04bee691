"""Facts about deployments."""

from tokenworks.kernel import Conflict, Invalid, NotFound, Unavailable


class DeploymentInvalid(Invalid):
    """What was declared can't be a deployment."""


class DeploymentNotFound(NotFound):
    """No such deployment."""


class ModelNotFound(NotFound):
    """No such model, or no such intent."""


class DeploymentExists(Conflict):
    """The name is taken."""


class CredentialMissing(Unavailable):
    """The variable or file that a deployment names is not there."""


class ProtocolsUnknown(Unavailable):
    """The deployment was asked what it speaks, and did not say."""


class TraceFaulty(Invalid):
    """A trace, or a fleet, that can't be simulated as it is."""
