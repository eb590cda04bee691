"""Subscribers, members, orders, products and the monthly cycle."""

from tokenworks.subscriptions.errors import (
    KeyReused,
    MemberExists,
    MemberNotFound,
    PhoneTaken,
    ProductEnded,
    ProductNotFound,
    SubscriberNotFound,
)
from tokenworks.subscriptions.model import (
    BillLine,
    CapPeriod,
    Member,
    Order,
    Product,
    Subscriber,
    parse_phone,
)
from tokenworks.subscriptions.service import Subscriptions

__all__ = [
    "BillLine",
    "CapPeriod",
    "KeyReused",
    "Member",
    "MemberExists",
    "MemberNotFound",
    "Order",
    "PhoneTaken",
    "Product",
    "ProductEnded",
    "ProductNotFound",
    "Subscriber",
    "SubscriberNotFound",
    "Subscriptions",
    "parse_phone",
]
