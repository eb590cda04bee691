"""Chains made anew from the rows that are there: what an operator could do who has changed history."""

from tokenworks.charging.ledger import chain, chain_store
from tokenworks.charging.ledger.chain import OWN


def rechain(connection):
    """Recompute every chain, and every entry that names heads, so that all of it fits the rows as they are.

    An entry that is gone leaves its chain; one that is in none is put at the end of its account's own. On a connection on which
    no trigger holds.
    """
    accounts = connection.execute(
        "SELECT account_id FROM entry UNION SELECT account_id FROM chain_link UNION SELECT account_id FROM chain_head"
    ).fetchall()
    for (account_id,) in accounts:
        entries = [
            row[0] for row in connection.execute(
                "SELECT entry_id FROM entry WHERE account_id = %s ORDER BY posted_at, entry_id", (account_id,)
            )
        ]  # fmt: skip
        chains, seen = {}, set()
        for chain_id, entry_id, seq in connection.execute(
            "SELECT chain_id, entry_id, seq FROM chain_link WHERE account_id = %s ORDER BY chain_id, link_no",
            (account_id,),
        ):
            if entry_id in entries and entry_id not in seen:
                seen.add(entry_id)
                chains.setdefault(chain_id, []).append((entry_id, seq))
        own = chains.pop(OWN, [])
        last = own[-1][1] if own else 0
        chains[OWN] = own + [(entry_id, last) for entry_id in entries if entry_id not in seen]
        connection.execute("DELETE FROM chain_link WHERE account_id = %s", (account_id,))
        connection.execute("DELETE FROM chain_head WHERE account_id = %s", (account_id,))
        # Its own comes last: it names the heads of the others.
        for chain_id, links in chains.items():
            _write(connection, account_id, chain_id, links)


def _write(connection, account_id, chain_id, links):
    head = chain.genesis(account_id.hex, chain_id.hex)
    usage = chain_store.usage_of_entries(connection, account_id, [entry_id for entry_id, _ in links])
    for entry_id, seq in links:
        _name_heads(connection, account_id, entry_id)
        digests = chain_store.entry_digests(connection, account_id, [entry_id])
        made = chain.link(head, seq, entry_id, digests[account_id, entry_id], chain.rows_of(usage[entry_id]))
        connection.execute(
            "INSERT INTO chain_link (account_id, chain_id, link_no, entry_id, seq, rows, hash) VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (account_id, chain_id, made.link_no, entry_id, seq, made.rows, made.hash),
        )
        head = chain.Head(seq, made.link_no, made.hash)
    if links:
        connection.execute(
            "INSERT INTO chain_head (account_id, chain_id, seq, link_no, hash) VALUES (%s, %s, %s, %s, %s)",
            (account_id, chain_id, head.seq, head.link_no, head.hash),
        )


def _name_heads(connection, account_id, entry_id):
    """What an entry names as heads, it names as they are now."""
    (kind, ref) = connection.execute(
        "SELECT kind, ref FROM entry WHERE account_id = %s AND entry_id = %s", (account_id, entry_id)
    ).fetchone()
    if kind != "heads":
        return
    named = []
    for one in ref.split(" "):
        chain_id, link_no, hashed = one.split(":") if one.count(":") == 2 else (one, "", "")
        row = None
        if link_no.isdigit():
            row = connection.execute(
                """SELECT link_no, hash FROM chain_link WHERE account_id = %s AND chain_id = %s::uuid AND link_no <= %s
                   ORDER BY link_no DESC LIMIT 1""",
                (account_id, chain_id, int(link_no)),
            ).fetchone()
        if row is not None:
            named.append(f"{chain_id}:{row[0]}:{bytes(row[1]).hex()}")
        elif not link_no:
            named.append(one)
    connection.execute(
        "UPDATE entry SET ref = %s WHERE account_id = %s AND entry_id = %s",
        (" ".join(named), account_id, entry_id),
    )
