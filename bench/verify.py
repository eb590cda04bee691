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
from tokenworks.app.database.connections import connect, ensure_usage_months
from tokenworks.app.database.embedded import Embedded
from tokenworks.app.database.schema import migrate
from tokenworks.app.settings import load_settings
from tokenworks.app.verifier import audit_on
from tokenworks.catalog import seed_catalogue
from tokenworks.charging.ledger.verify import rolling
from tokenworks.trust import ensure_pepper

# Of a record with its entry and postings, and their indexes: the bar.
BYTES_MAX = 1000
BYTES_OF = ("usage", "entry", "posting")
ROWS = ("usage", "entry", "posting", "chain_link")
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def rows_of(connection):
    return sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ROWS)


def busy_s(owner):
    """CPU that the server of this connection and we have used, children that ended too."""
    (server,) = (int(line.split()[1]) for line in Path(f"/proc/{owner.info.backend_pid}/status").read_text().splitlines() if line.startswith("PPid:"))  # fmt: skip
    living = [int(pid) for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split()]
    return sum(_ticks(pid, 2) for pid in living) + _ticks(server, 4) + _ticks(os.getpid(), 4)


def _ticks(pid, fields):
    """Seconds of a process's own times, or with those of its children that were waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, stat[11 : 11 + fields])) / os.sysconf("SC_CLK_TCK")


class Timed:
    """Seconds and busy seconds of what runs within it."""

    def __init__(self, owner):
        self._owner = owner

    def __enter__(self):
        self._began, self._busy = time.perf_counter(), busy_s(self._owner)
        return self

    def __exit__(self, *_):
        self.took, self.busy = time.perf_counter() - self._began, busy_s(self._owner) - self._busy


def copied(owner):
    """What psycopg takes for the bytes of the same rows, one table after the other."""
    with Timed(owner) as timed:
        for table in ROWS:
            with owner.cursor().copy(f"COPY (SELECT * FROM {table}) TO STDOUT") as copy:
                for _ in copy:
                    pass
    return timed


def verified(services, owner, **more):
    """(what was read, `Timed`). It is clean."""
    with Timed(owner) as timed:
        found, read = audit_on(services.connection, services.offerings.rate_cards(), **more)
    assert found == [], found[:3]
    return read, timed


def measured(services, owner, records, subscribers, per_entry, say=print, processes=None):
    """Fill an empty ledger and verify it: the figures by name. Ratios are of busy seconds, to those of a COPY of as many records."""
    with Timed(owner) as made:
        filling = Filling(owner, services.offerings.rate_cards(), subscribers)
        done = filling.rounds(max(1, records // (len(filling.spenders) * per_entry)), per_entry)
    rows = sum(owner.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ROWS)
    each = {name: round(sum(sizes) / done) for name, sizes in bytes_of(owner).items()}
    bare = copied(owner)
    found = {
        "records": done, "subscribers": subscribers, "records_an_entry": per_entry, "rows": rows,
        "bytes_a_record": each | {"record and postings": sum(each[name] for name in BYTES_OF), "all": sum(each.values())}, "copy_busy_s": round(bare.busy, 2),
    }  # fmt: skip
    say(f"{done:,} records of {subscribers:,} subscribers, {rows:,} rows, made in {made.took:.0f} s; bytes a record: {found['bytes_a_record']}")  # fmt: skip
    say(f"bare COPY: {bare.took:.1f} s, busy {bare.busy:.1f} s, {rows / bare.busy:,.0f} rows a busy second")
    many = processes or os.cpu_count() or 1
    for count in sorted({1, many}):
        owner.execute("TRUNCATE verify_head, verify_run")
        _, timed = verified(services, owner, full=True, processes=count)
        found |= {f"full_s_{count}": round(timed.took, 2), f"full_busy_s_{count}": round(timed.busy, 2), f"full_x_copy_{count}": round(timed.busy / bare.busy, 2)}  # fmt: skip
        say(f"full, {count} process(es): {timed.took:.1f} s, busy {timed.busy:.1f} s, {rows / timed.busy:,.0f} rows a busy second, {timed.busy / bare.busy:.2f} × COPY")  # fmt: skip
    # What is new is as much as a thirtieth of what is there.
    fresh = filling.rounds(1, per_entry, accounts=max(1, done // rolling.PARTS // per_entry))
    owner.execute("CREATE TEMP TABLE seen AS SELECT * FROM verify_head")
    least, rolling.PART_ACCOUNTS_MIN = rolling.PART_ACCOUNTS_MIN, 1
    try:
        for count in sorted({1, many}):
            owner.execute("TRUNCATE verify_head, verify_run")
            owner.execute("INSERT INTO verify_head SELECT * FROM seen")
            read, timed = verified(services, owner, processes=count)
            part = round(done * read.accounts / read.accounts_total)
            ratio = timed.busy / (bare.busy * (fresh + part) / done)
            found |= {"new": fresh, "part": part, f"since_s_{count}": round(timed.took, 2), f"since_busy_s_{count}": round(timed.busy, 2), f"since_x_copy_{count}": round(ratio, 2)}  # fmt: skip
            say(f"since the last run, {count} process(es): {fresh:,} new records, and about {part:,} of {read.accounts:,} accounts, in {timed.took:.1f} s, busy {timed.busy:.1f} s: {(fresh + part) / timed.busy:,.0f} records a busy second, {ratio:.2f} × COPY")  # fmt: skip
    finally:
        rolling.PART_ACCOUNTS_MIN = least
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
            services = make_works(settings, connection)
            services.offerings.load(seed_catalogue())
            yield services, owner
    embedded.destroy()


def bench_verify(records, subscribers, per_entry, say=print):
    with tempfile.TemporaryDirectory() as folder, empty(folder) as (services, owner):
        return measured(services, owner, records, subscribers, per_entry, say)


if __name__ == "__main__":
    given = [int(value) for value in sys.argv[1:]]
    print(json.dumps(bench_verify(*given, *(300_000, 6000, 20)[len(given) :])))
