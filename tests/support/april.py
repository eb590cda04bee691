"""April of 2027, billed in May, and the carrier's answers."""

from datetime import datetime

from tokenworks.subscriptions import BILLING_ZONE


def to_may(services, clock):
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.orders.run_cycles()


def many(services, count, clock):
    made = [services.subscriptions.register(f"+86137{at:08d}") for at in range(count)]
    for one in made:
        services.orders.place(one, "ctc-light")
    to_may(services, clock)
    services.bills.run()
    return made


def answer(sequence, *rows):
    return "\n".join([f"A|tokenworks-phone-1|{sequence}", *rows]) + "\n"
