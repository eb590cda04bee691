"""What orders leave in the books."""


def charges(services, subscriber):
    return [(c.kind, c.amount_nano) for c in services.charges.of_subscriber(subscriber.subscriber_id)]


def left(services, subscriber):
    return sum(b.left for b in services.ledger.buckets(subscriber.account_id) if b.kind == "balance") // 1000
