"""A ledger at the size of a carrier: it verifies, a record and its postings take less than a kilobyte, and a read touches its account's
own pages.

`TOKENWORKS_TEST_RECORDS` says how large it is at night (1 000 000 unless said; 50 000 000 takes hours to make, and 50 GB).
"""

import os

import pytest
from bench.verify import BYTES_MAX, empty, measured

from tests.charging import test_flat_reads as flat
from tokenworks.charging.ledger.verify import rolling

# No setting of ours: where one stays that no release knows, nothing starts.
RECORDS = int(os.environ.pop("TOKENWORKS_TEST_RECORDS", "1000000"))
RECORDS_A_SUBSCRIBER = 50
RECORDS_AN_ENTRY = 5
SMALL = 6000


def verified_and_read(folder, records, processes):
    """Make it, verify it, and look at the plans of the reads of one of its accounts."""
    with empty(folder, fast=True) as (services, owner):
        figures = measured(
            services, owner, records, records // RECORDS_A_SUBSCRIBER, RECORDS_AN_ENTRY, processes=processes
        )
        services.connection.execute("SET random_page_cost = 1.1")
        span = flat.months(services)
        flat.seed(services, span, flat.ROWS, account=flat.ME, salt="me")
        flat.clean(owner)
        pages = flat.measured(services, span)
        assert {name: count for name, count in pages.items() if count > flat.PAGES_MAX} == {}
    return figures


def test_a_small_one_verifies_by_one_process_and_by_two(tmp_path, monkeypatch):
    monkeypatch.setattr(rolling, "PIECE_ACCOUNTS_MAX", 50)
    figures = verified_and_read(tmp_path, SMALL, 2)
    assert figures["records"] == SMALL and figures["new"] == SMALL // 30
    assert {f"full_s_{count}" for count in (1, 2)} <= set(figures)


@pytest.mark.nightly
def test_a_large_one_verifies_and_a_record_with_its_postings_takes_less_than_a_kilobyte(tmp_path):
    figures = verified_and_read(tmp_path, RECORDS, None)
    assert figures["records"] >= RECORDS - RECORDS_A_SUBSCRIBER * RECORDS_AN_ENTRY
    assert figures["bytes_a_record"]["record and postings"] < BYTES_MAX
