"""Subscribers, members, orders, products, pay-as-you-go and the monthly cycle."""

from tokenworks.kernel.door import open_door

open_door(__name__)
