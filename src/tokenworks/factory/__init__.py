"""Models, deployments, health and placement. Never knows a price to a customer."""

from tokenworks.factory.engine import EngineSpec, Work
from tokenworks.factory.errors import (
    CredentialMissing,
    DeploymentExists,
    DeploymentInvalid,
    DeploymentNotFound,
    ProtocolsUnknown,
    TraceFaulty,
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
from tokenworks.factory.placement import (
    NO_ASK,
    OBJECTIVES,
    Ask,
    Candidate,
    Objective,
    Place,
    Placement,
    carry_over,
    may_have,
)
from tokenworks.factory.prefixes import BLOCK_BYTES, hash_blocks
from tokenworks.factory.probe import probe_protocols
from tokenworks.factory.service import Deployments, make_deployment, read_credential
from tokenworks.factory.simulate import (
    MACHINES_MAX,
    POLICIES,
    Outcome,
    Policy,
    machines_for,
    simulate,
    traffic_for,
)
from tokenworks.factory.traces import SYNTHETIC, read_trace

__all__ = [
    "BLOCK_BYTES",
    "MACHINES_MAX",
    "NO_ASK",
    "OBJECTIVES",
    "POLICIES",
    "PROTOCOLS",
    "PROTOCOL_PATHS",
    "SYNTHETIC",
    "Ask",
    "Candidate",
    "CredentialMissing",
    "Deployment",
    "DeploymentExists",
    "DeploymentInvalid",
    "DeploymentNotFound",
    "Deployments",
    "EngineSpec",
    "Objective",
    "Outcome",
    "Place",
    "Placement",
    "Policy",
    "Price",
    "Protocol",
    "ProtocolsUnknown",
    "TraceFaulty",
    "Work",
    "address_refusal",
    "carry_over",
    "hash_blocks",
    "machines_for",
    "make_deployment",
    "may_have",
    "parse_address",
    "probe_protocols",
    "read_credential",
    "read_trace",
    "simulate",
    "traffic_for",
]
