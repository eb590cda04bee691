from tokenworks.factory.decide import Decision, SubscriberPolicy, decide, options, placement_request, request_of_subscriber, single_deployment_request
from tokenworks.factory.errors import CredentialMissing, DeploymentExists, DeploymentInvalid, DeploymentNotFound, ModelNotFound, ProtocolsUnknown, TraceFaulty
from tokenworks.factory.facts.image_size import image_size
from tokenworks.factory.facts.media import MediaRules, media_rules
from tokenworks.factory.facts.probe import probe_protocols
from tokenworks.factory.facts.profiles import Profile, load_profile, max_tokens_field, profile_names, profile_of
from tokenworks.factory.fleet_file import read_fleet
from tokenworks.factory.intents.choice import BUILT_IN, Choice, FILINGS, Intent, MODALITIES, ModelCard, Option, Requirements, difficulty, features, models_meant, rank, unfit
from tokenworks.factory.intents.labelled import IntentEvaluation, SYNTHETIC_REQUESTS, evaluate, read_requests
from tokenworks.factory.model import Deployment, KINDS, PROTOCOLS, PROTOCOL_PATHS, Price, Protocol, address_refusal, parse_address
from tokenworks.factory.placing.fairness import FairQueue, Waiter, headroom
from tokenworks.factory.placing.health import COOL_DOWN_S, FAILURES_TO_OPEN, RetryBudget, eject_outlier
from tokenworks.factory.placing.placement import Placement
from tokenworks.factory.placing.prefixes import BLOCK_BYTES, hash_blocks
from tokenworks.factory.placing.request import OBJECTIVES, Objective, PlacementRequest, TRIVIAL_REQUEST, may_have
from tokenworks.factory.placing.views import Candidate, DeploymentView, carry_over, retry_after_wait_s
from tokenworks.factory.service import Deployments, make_deployment, make_intent, make_model, read_credential
from tokenworks.factory.simulation.calibrate import AnswerTiming, PromptTiming, fit
from tokenworks.factory.simulation.engine import EngineSpec, TraceRequest
from tokenworks.factory.simulation.simulate import MACHINES_MAX, Outcome, POLICIES, PolicyName, machines_for, simulate, traffic_for
from tokenworks.factory.simulation.traces import SYNTHETIC, read_trace

__all__ = [
    "AnswerTiming",
    "BLOCK_BYTES",
    "BUILT_IN",
    "COOL_DOWN_S",
    "Candidate",
    "Choice",
    "CredentialMissing",
    "Decision",
    "Deployment",
    "DeploymentExists",
    "DeploymentInvalid",
    "DeploymentNotFound",
    "DeploymentView",
    "Deployments",
    "EngineSpec",
    "FAILURES_TO_OPEN",
    "FILINGS",
    "FairQueue",
    "Intent",
    "IntentEvaluation",
    "KINDS",
    "MACHINES_MAX",
    "MODALITIES",
    "MediaRules",
    "ModelCard",
    "ModelNotFound",
    "OBJECTIVES",
    "Objective",
    "Option",
    "Outcome",
    "POLICIES",
    "PROTOCOLS",
    "PROTOCOL_PATHS",
    "Placement",
    "PlacementRequest",
    "PolicyName",
    "Price",
    "Profile",
    "PromptTiming",
    "Protocol",
    "ProtocolsUnknown",
    "Requirements",
    "RetryBudget",
    "SYNTHETIC",
    "SYNTHETIC_REQUESTS",
    "SubscriberPolicy",
    "TRIVIAL_REQUEST",
    "TraceFaulty",
    "TraceRequest",
    "Waiter",
    "address_refusal",
    "carry_over",
    "decide",
    "difficulty",
    "eject_outlier",
    "evaluate",
    "features",
    "fit",
    "hash_blocks",
    "headroom",
    "image_size",
    "load_profile",
    "machines_for",
    "make_deployment",
    "make_intent",
    "make_model",
    "max_tokens_field",
    "may_have",
    "media_rules",
    "models_meant",
    "options",
    "parse_address",
    "placement_request",
    "probe_protocols",
    "profile_names",
    "profile_of",
    "rank",
    "read_credential",
    "read_fleet",
    "read_requests",
    "read_trace",
    "request_of_subscriber",
    "retry_after_wait_s",
    "simulate",
    "single_deployment_request",
    "traffic_for",
    "unfit",
]
