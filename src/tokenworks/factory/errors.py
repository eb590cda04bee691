"""Facts about deployments."""

from tokenworks.kernel import Conflict, Invalid, NotFound, Unavailable


class DeploymentInvalid(Invalid):
    """The declaration of a deployment, a model, an intent or an alias is not valid."""


class DeploymentNotFound(NotFound):
    """No such deployment."""


class ModelNotFound(NotFound):
    """No such model, or no such intent."""


class DeploymentExists(Conflict):
    """Another deployment has the name."""


class CredentialMissing(Unavailable):
    """The variable or file that a deployment names as its credential is missing, or holds none."""


class ProtocolsUnknown(Unavailable):
    """The deployment did not answer which protocols it speaks."""


class TraceFaulty(Invalid):
    """A trace, a fleet or a file of labelled requests can't be read."""


class ModelsFileFaulty(Invalid):
    """A file of models can't be read, or is of no known form."""
