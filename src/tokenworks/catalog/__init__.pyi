from tokenworks.catalog.catalogue import Catalogue
from tokenworks.catalog.counts import INPUT_CLASSES, TOKEN_CLASSES, Counts, Weights, weights_of
from tokenworks.catalog.differences import OfferingChange, card_differences, offering_differences
from tokenworks.catalog.drafts import Draft, Drafts
from tokenworks.catalog.errors import (
    CatalogueFaulty,
    ContentChanged,
    DraftNotFound,
    DraftNotReady,
    OfferingChanged,
    OfferingNotActive,
    OfferingNotFound,
)
from tokenworks.catalog.file import read_catalogue, seed_catalogue
from tokenworks.catalog.model import (
    Audience,
    BucketSpec,
    ChargingPolicy,
    Offering,
    Proration,
    RateCard,
    Service,
)
from tokenworks.catalog.rating import Share, amount, first_tokens, split
from tokenworks.catalog.service import Offerings, SoldOffering

__all__ = [
    "INPUT_CLASSES",
    "TOKEN_CLASSES",
    "Audience",
    "BucketSpec",
    "Catalogue",
    "CatalogueFaulty",
    "ChargingPolicy",
    "ContentChanged",
    "Counts",
    "Draft",
    "DraftNotFound",
    "DraftNotReady",
    "Drafts",
    "Offering",
    "OfferingChange",
    "OfferingChanged",
    "OfferingNotActive",
    "OfferingNotFound",
    "Offerings",
    "Proration",
    "RateCard",
    "Service",
    "Share",
    "SoldOffering",
    "Weights",
    "amount",
    "card_differences",
    "first_tokens",
    "offering_differences",
    "read_catalogue",
    "seed_catalogue",
    "split",
    "weights_of",
]
