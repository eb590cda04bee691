"""What orders leave in the books."""


def charges(works, subscriber):
    return [(c.kind, c.amount_nano) for c in works.charges.of_subscriber(subscriber.subscriber_id)]


def left(works, subscriber):
    return sum(b.left for b in works.ledger.buckets(subscriber.account_id) if b.kind == "balance") // 1000
