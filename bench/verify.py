"""How many rows a second `ledger verify` reads: in full, and of what is new since its last run with a part of the accounts; by one
process and by several, and against a bare COPY of the same rows.

Run: python -m bench.verify [RECORDS [SUBSCRIBERS [RECORDS_AN_ENTRY]]]
"""

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from bench.filling import Filling, bytes_of
from tokenworks.app.bootstrap import make_works
from tokenworks.app.database import connect, ensure_usage_months
from tokenworks.app.embedded import Embedded
from tokenworks.app.schema import migrate
from tokenworks.app.settings import load_settings
from tokenworks.app.verifier import audit_on
from tokenworks.catalog import seed_catalogue
from tokenworks.charging.verify import rolling
from tokenworks.trust import ensure_pepper

ROWS = ("usage", "entry", "posting", "chain_link")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def rows_of(connection):
    return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ROWS)


def copied(connection):
    """Seconds that psycopg takes for the bytes of the same rows, one table after the other."""
    began = time.perf_counter()
    for table in ROWS:
        with connection.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as copy:
            for _ in copy:
                pass
    return time.perf_counter() - began


def timed(works, **more):
    """(what was read, seconds)."""
    began = time.perf_counter()
    found, read = audit_on(works.connection, works.offerings.rate_cards(), **more)
    took = time.perf_counter() - began
    assert found == [], found[:3]
    return read, took


def forget(owner):
    owner.execute("TRUNCATE verify_head, verify_run")


def measured(works, owner, records, subscribers, per_entry, say=print, processes=None):
    """Fill an empty ledger and verify it: the figures by name."""
    cores = os.cpu_count() or 1
    began = time.perf_counter()
    filling = Filling(owner, works.offerings.rate_cards(), subscribers)
    count = max(1, records // (len(filling.spenders) * per_entry))
    done = filling.rounds(count, per_entry)
    rows = rows_of(owner)
    found = {"records": done, "subscribers": subscribers, "records_an_entry": per_entry, "rows": rows}
    each = {name: round(sum(sizes) / done) for name, sizes in bytes_of(owner).items()}
    found["bytes_a_record"] = each | {"all": sum(each.values())}
    say(f"{done:,} records of {subscribers:,} subscribers, {rows:,} rows, made in {time.perf_counter() - began:.0f} s; bytes a record: {found['bytes_a_record']}")  # fmt: skip
    bare = found["copy_s"] = copied(owner)
    say(f"bare COPY: {bare:.1f} s, {rows / bare:,.0f} rows/s")
    for many in processes or (1, cores):
        forget(owner)
        _, took = timed(works, full=True, processes=many)
        found[f"full_s_{many}"] = took
        say(f"full, {many} process(es): {took:.1f} s, {rows / took:,.0f} rows/s, {took / bare:.2f} × COPY")
    # What is new is as much as a thirtieth of what is there.
    fresh = filling.rounds(1, per_entry, accounts=max(1, done // rolling.PARTS // per_entry))
    owner.execute("CREATE TEMP TABLE seen AS SELECT * FROM verify_head")
    rolling.PART_ACCOUNTS_MIN = 1
    for many in processes or (1, cores):
        forget(owner)
        owner.execute("INSERT INTO verify_head SELECT * FROM seen")
        read, took = timed(works, processes=many)
        part = round(done * read.accounts / read.accounts_total)
        found |= {f"since_s_{many}": took, "new": fresh, "part": part}
        say(f"since the last run, {many} process(es): {fresh:,} new records, and about {part:,} of {read.accounts:,} accounts, in {took:.1f} s: {(fresh + part) / took:,.0f} records/s")  # fmt: skip
    return found


@contextlib.contextmanager
def empty(folder, *, fast=False):
    """(works, the owner's connection) of a new database."""
    embedded = Embedded(Path(folder, "database"), FAST if fast else None)
    with embedded.use() as url, contextlib.closing(connect(embedded.owner_url)) as owner:
        migrate(embedded.owner_url, app_url=url)
        ensure_usage_months(owner)
        settings = load_settings({"data_dir": str(folder)}).settings
        ensure_pepper(settings.secrets)
        with contextlib.closing(connect(url)) as connection:
            works = make_works(settings, connection)
            works.offerings.load(seed_catalogue())
            yield works, owner
    embedded.destroy()


def bench_verify(records, subscribers, per_entry, say=print):
    with tempfile.TemporaryDirectory() as folder, empty(folder) as (works, owner):
        return measured(works, owner, records, subscribers, per_entry, say)


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    print(json.dumps(bench_verify(*given, *(300_000, 6000, 20)[len(given) :])))
