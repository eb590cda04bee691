"""Models, deployments, health and placement. Never knows a price to a customer."""

from tokenworks.factory.errors import (
    CredentialMissing,
    DeploymentExists,
    DeploymentInvalid,
    DeploymentNotFound,
    ProtocolsUnknown,
)
from tokenworks.factory.model import (
    PROTOCOL_PATHS,
    PROTOCOLS,
    Deployment,
    Price,
    Protocol,
    address_refusal,
    parse_address,
)
from tokenworks.factory.placement import Place, carry_over, choose
from tokenworks.factory.probe import probe_protocols
from tokenworks.factory.service import Deployments, make_deployment, read_credential

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_PATHS",
    "CredentialMissing",
    "Deployment",
    "DeploymentExists",
    "DeploymentInvalid",
    "DeploymentNotFound",
    "Deployments",
    "Place",
    "Price",
    "Protocol",
    "ProtocolsUnknown",
    "address_refusal",
    "carry_over",
    "choose",
    "make_deployment",
    "parse_address",
    "probe_protocols",
    "read_credential",
]
