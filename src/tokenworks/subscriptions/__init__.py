"""Subscribers, members, orders, products and the monthly cycle."""

from tokenworks.subscriptions.errors import (
    KeyReused,
    PhoneTaken,
    ProductEnded,
    ProductNotFound,
    SubscriberNotFound,
)
from tokenworks.subscriptions.model import BillLine, Order, Product, Subscriber, parse_phone
from tokenworks.subscriptions.service import Subscriptions

__all__ = [
    "BillLine",
    "KeyReused",
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
