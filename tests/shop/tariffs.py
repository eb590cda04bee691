"""A catalogue of offerings that differ in their proration policy alone, so that a table of policies is a table of offerings."""

from tokenworks.catalog import read_catalogue

POLICIES = ("prorate", "full", "free_until_next_cycle")
# id -> (price in nano, first month's price or None, tokens; None: earned with time).
HEAD = """catalogue: policies
rate_cards:
  - id: flat
    effective_from: 2026-01-01T00:00:00+08:00
    source: test
    rates:
      - {model_class: standard, models: ["*"], fresh_input: 1000, cached_input: 1000, cache_write: 1000, audio_input: 1000, output: 1000, reasoning: 1000, audio_output: 1000}
  - id: calls
    effective_from: 2026-01-01T00:00:00+08:00
    source: test
    rates:
      - {model_class: standard, models: ["*"], request: 1000, fresh_input: 0, cached_input: 0, cache_write: 0, audio_input: 0, output: 0, reasoning: 0, audio_output: 0}
offerings:
"""
PLAN = """  - {{id: {id}, name: {id}, name_zh: {id}, carrier: test, kind: plan, audiences: [person], price: "{price}", {first}cycle: {cycle},
     proration: {policy}, rate_card: {card}, buckets: [{{unit: {unit}, quantity: {quantity}{window}}}], source: test}}
"""
ADD_ON = """  - {{id: {id}, name: {id}, name_zh: {id}, carrier: test, kind: add_on, audiences: [person], price: "{price}", cycle: {cycle},
     proration: prorate, rate_card: flat, fulfilment: test, deliveries: [network], source: test}}
"""
BUNDLE = """  - {{id: {id}, name: {id}, name_zh: {id}, carrier: test, kind: bundle, audiences: [person], price: "{price}", {first}cycle: {cycle},
     proration: {policy}, rate_card: flat, parts: [{parts}], source: test}}
"""


def plan(id_, price, policy="prorate", *, first=None, cycle="calendar_month", tokens=1_000_000, window=None):
    """A line of the catalogue; with a window it is earned with time."""
    return PLAN.format(
        id=id_, price=price, first=f'first_price: "{first}", ' if first else "", cycle=cycle, policy=policy,
        card="calls" if window else "flat", unit="call" if window else "token", quantity=window or tokens,
        window=", window: 5h" if window else "",
    )  # fmt: skip


def add_on(id_, price, *, cycle="calendar_month"):
    return ADD_ON.format(id=id_, price=price, cycle=cycle)


def bundle(id_, price, parts, policy="prorate", *, first=None, cycle="calendar_month"):
    return BUNDLE.format(
        id=id_, price=price, first=f'first_price: "{first}", ' if first else "", cycle=cycle, policy=policy,
        parts=", ".join(parts),
    )  # fmt: skip


def catalogue(*lines):
    return read_catalogue(HEAD + "".join(lines), "policies.yaml")
