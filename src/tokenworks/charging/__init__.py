"""Accounts, buckets, grants, usage records, postings. The only writer of balances."""

from tokenworks.kernel.door import open_door

open_door(__name__)
