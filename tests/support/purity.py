"""Whether a statement is account-pure: each hot table in it, sub-queries too, is bound to one account, the same one.

Bound means: equal, by conditions that all hold, to one parameter, directly or over other tables' `account_id`. `= ANY` and
`IN` name many accounts and bind nothing. What is bound to one value of the declared shard key (`shard_of(account_id) = %s`) is
as good: all of it is in one place.
"""

from typing import NamedTuple

import pgparse

# Tables whose key is led by account_id. Each can be distributed by it.
HOT = frozenset({
    "account", "bucket", "grants", "usage", "entry", "posting", "window_use", "account_loss", "charge", "transfer",
    "chain_head", "chain_link", "verify_head", "usage_day", "replay_answer", "content_log",
})  # fmt: skip
KEY = "account_id"
_TIMES = {"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday"}


class Report(NamedTuple):
    """What is found of a statement: hot tables that it names, and what keeps it from being account-pure."""

    hot: tuple[str, ...]
    broken: tuple[str, ...]


class _Relation(NamedTuple):
    number: int
    alias: str
    columns: frozenset[str]


class Statement:
    """One statement's tables and which of their columns are equal."""

    def __init__(self, text, columns):
        self._columns = columns
        self._parent, self._derived, self._shards = {}, {}, {}
        self._count = 0
        self._hot = []
        self._cold = set()
        self._writes, self._locks, self._times, self._fences = False, False, set(), False
        for one in pgparse.parse(text):
            self._query(one["stmt"], [], {})

    def report(self):
        broken = []
        bound = {}
        for name, node in self._hot:
            bound.setdefault(self._bound(node, frozenset()), []).append(name)
        broken += [f"{name} is bound to no account" for name in bound.pop(None, ())]
        if len(bound) > 1:
            broken.append(
                f"it names several accounts: {', '.join(sorted(n for names in bound.values() for n in names))}"
            )
        if self._hot and (self._writes or self._locks):
            broken += [f"it locks or changes rows and joins {name}" for name in sorted(self._cold)]
            broken += [f"{name}() in a statement that locks or changes rows" for name in sorted(self._times)]
        if self._hot and self._fences:
            broken.append("OFFSET 0 as a fence")
        return Report(tuple(sorted({name for name, _ in self._hot})), tuple(broken))

    # Equal columns: a forest, and columns that others are made of.

    def _root(self, node):
        while (up := self._parent.get(node, node)) != node:
            node = up
        return node

    def _same(self, one, other):
        if one is not None and other is not None:
            self._parent.setdefault(one, one)
            self._parent.setdefault(other, other)
            self._parent[self._root(one)] = self._root(other)

    def _bound(self, node, seen):
        """The parameter or constant that a column is equal to, None where there is none."""
        root = self._root(node)
        if root in seen:
            return None
        members = [n for n in [*self._parent, node] if self._root(n) == root]
        for member in members:
            if member[0] in {"param", "const"}:
                return member
        for member in members:
            # One value of the declared shard key: of whatever account, its rows are in one place.
            shard = self._shards.get(member)
            if shard is not None and shard[0] in {"param", "const"}:
                return ("shard", *shard)
        for member in members:
            made_of = self._derived.get(member)
            if made_of:
                found = {
                    self._bound(inner, seen | {root}) if inner is not None else None for inner in made_of
                }
                if len(found) == 1 and None not in found:
                    return found.pop()
        return None

    # Queries.

    def _query(self, node, outer, ctes):
        """[(column, what it is made of)] of a query, in order."""
        ((kind, body),) = node.items()
        if kind == "SelectStmt":
            return self._select(body, outer, ctes)
        if kind in {"InsertStmt", "UpdateStmt", "DeleteStmt"}:
            return self._change(kind, body, outer, ctes)
        if kind == "CopyStmt":
            # Every row of a COPY names its account, and goes to where that is.
            assert body.get("is_from")
        return []

    def _with(self, body, outer, ctes):
        ctes = dict(ctes)
        for one in body.get("withClause", {}).get("ctes", ()):
            cte = one["CommonTableExpr"]
            query, names = cte["ctequery"], [c["String"]["sval"] for c in cte.get("aliascolnames", ())]
            if body["withClause"].get("recursive") and "larg" in query.get("SelectStmt", {}):
                # What it begins with binds what it goes on with.
                made = self._select(query["SelectStmt"]["larg"], outer, ctes)
                self._select(query["SelectStmt"]["rarg"], outer, ctes | {cte["ctename"]: _named(made, names)})
            else:
                made = self._query(query, outer, ctes)
            ctes[cte["ctename"]] = _named(made, names)
        return ctes

    def _select(self, body, outer, ctes):
        ctes = self._with(body, outer, ctes)
        if body.get("op", "SETOP_NONE") != "SETOP_NONE":
            left, right = (self._select(body[side], outer, ctes) for side in ("larg", "rarg"))
            return [(name, [*a, *b]) for (name, a), (_, b) in zip(left, right, strict=True)]
        if "valuesLists" in body:
            rows = [one["List"]["items"] for one in body["valuesLists"]]
            self._walk(rows, outer, ctes)
            return [
                (f"column{at}", [self._node(row[at - 1], outer) for row in rows])
                for at in range(1, len(rows[0]) + 1)
            ]
        scope = [self._from(body.get("fromClause", ()), outer, ctes), *outer]
        self._where(body.get("whereClause"), scope, ctes)
        for part in (
            "havingClause",
            "groupClause",
            "sortClause",
            "limitCount",
            "distinctClause",
            "windowClause",
        ):
            self._walk(body.get(part), scope, ctes)
        offset = body.get("limitOffset")
        if offset is not None and "A_Const" in offset:
            self._fences = True
        if "lockingClause" in body:
            self._locks = True
        return self._outputs(body.get("targetList", ()), scope, ctes)

    def _change(self, kind, body, outer, ctes):
        self._writes = True
        ctes = self._with(body, outer, ctes)
        table = body["relation"]
        target = self._relation(
            table["relname"], table.get("alias", {}).get("aliasname", table["relname"]), {}
        )
        scope = [[target], *outer]
        if kind == "InsertStmt":
            made = self._query(body["selectStmt"], outer, ctes) if "selectStmt" in body else []
            given = [column["ResTarget"]["name"] for column in body.get("cols", ())]
            if KEY in given and made:
                self._derived[target.number, KEY] = made[given.index(KEY)][1]
            self._walk(body.get("onConflictClause"), scope, ctes)
        else:
            more = self._from(body.get("fromClause", body.get("usingClause", ())), [[target], *outer], ctes)
            scope = [[target, *more], *outer]
            self._where(body.get("whereClause"), scope, ctes)
            self._walk(body.get("targetList"), scope, ctes)
        return self._outputs(body.get("returningList", ()), scope, ctes)

    def _outputs(self, targets, scope, ctes):
        found = []
        for one in targets:
            target = one["ResTarget"]
            value = target["val"]
            self._walk(value, scope, ctes)
            fields = value.get("ColumnRef", {}).get("fields", ())
            if fields and "A_Star" in fields[-1]:
                for relation in scope[0]:
                    if len(fields) == 1 or fields[0]["String"]["sval"] == relation.alias:
                        found += [
                            (column, [(relation.number, column)]) for column in sorted(relation.columns)
                        ]
                continue
            name = target.get("name") or (fields[-1]["String"]["sval"] if fields else "?")
            found.append((name, [self._node(value, scope)]))
        return found

    # Tables.

    def _relation(self, name, alias, ctes):
        self._count += 1
        if name in ctes:
            relation = _Relation(self._count, alias, frozenset(column for column, _ in ctes[name]))
            for column, made_of in ctes[name]:
                self._derived[relation.number, column] = made_of
            return relation
        relation = _Relation(self._count, alias, frozenset(self._columns.get(name, ())))
        if name in HOT:
            self._hot.append((name, (relation.number, KEY)))
        elif relation.columns and not name.startswith("pg_"):
            self._cold.add(name)
        return relation

    def _from(self, items, outer, ctes):
        relations = []
        for item in items:
            relations += self._item(item, relations, outer, ctes)
        return relations

    def _item(self, item, beside, outer, ctes):
        ((kind, body),) = item.items()
        if kind == "RangeVar":
            alias = body.get("alias", {}).get("aliasname", body["relname"])
            return [self._relation(body["relname"], alias, ctes)]
        if kind == "RangeSubselect":
            made = self._query(body["subquery"], [beside, *outer], ctes)
            alias = body["alias"]["aliasname"]
            names = [c["String"]["sval"] for c in body["alias"].get("colnames", ())]
            return [self._relation(alias, alias, {alias: _named(made, names)})]
        if kind == "RangeFunction":
            self._walk(body.get("functions"), [beside, *outer], ctes)
            self._count += 1
            alias = body.get("alias", {})
            names = [c["String"]["sval"] for c in alias.get("colnames", ())]
            names += [c["ColumnDef"]["colname"] for c in body.get("coldeflist", ())]
            name = alias.get("aliasname", "?")
            return [_Relation(self._count, name, frozenset(names or [name]))]
        assert kind == "JoinExpr", kind
        left = self._item(body["larg"], beside, outer, ctes)
        right = self._item(body["rarg"], [*beside, *left], outer, ctes)
        scope = [[*left, *right], beside, *outer]
        for one in body.get("usingClause", ()):
            column = one["String"]["sval"]
            nodes = [(r.number, column) for r in (*left, *right) if column in r.columns]
            for node in nodes[1:]:
                self._same(nodes[0], node)
        self._where(body.get("quals"), scope, ctes)
        return [*left, *right]

    # Conditions.

    def _where(self, node, scope, ctes):
        if node is None:
            return
        expression = node.get("BoolExpr")
        if expression and expression["boolop"] == "AND_EXPR":
            for one in expression["args"]:
                self._where(one, scope, ctes)
            return
        equal = node.get("A_Expr")
        if (
            equal
            and equal["kind"] == "AEXPR_OP"
            and equal["name"][-1]["String"]["sval"] == "="
            and "lexpr" in equal
        ):
            of = _shard_of(equal["lexpr"])
            if of is None:
                self._same(self._node(equal["lexpr"], scope), self._node(equal["rexpr"], scope))
            else:
                self._shards[self._node(of, scope)] = self._node(equal["rexpr"], scope)
        self._walk(node, scope, ctes)

    def _node(self, value, scope):
        while "TypeCast" in value:
            value = value["TypeCast"]["arg"]
        if "ParamRef" in value:
            return ("param", value["ParamRef"]["number"])
        if "A_Const" in value:
            return ("const", str(value["A_Const"]))
        fields = value.get("ColumnRef", {}).get("fields", ())
        if not fields or "A_Star" in fields[-1]:
            return None
        names = [one["String"]["sval"] for one in fields]
        for relations in scope:
            for relation in relations:
                if (len(names) == 1 or names[0] == relation.alias) and names[-1] in relation.columns:
                    return (relation.number, names[-1])
        return None

    def _walk(self, node, scope, ctes):
        if isinstance(node, list):
            for one in node:
                self._walk(one, scope, ctes)
        elif isinstance(node, dict):
            if "SubLink" in node:
                self._walk(node["SubLink"].get("testexpr"), scope, ctes)
                self._query(node["SubLink"]["subselect"], scope, ctes)
                return
            if "FuncCall" in node:
                name = node["FuncCall"]["funcname"][-1]["String"]["sval"]
                if name in _TIMES:
                    self._times.add(name)
            if "SQLValueFunction" in node:
                self._times.add(node["SQLValueFunction"]["op"].removeprefix("SVFOP_").lower())
            for one in node.values():
                self._walk(one, scope, ctes)


def _shard_of(value):
    """The column of which `shard_of` is asked."""
    call = value.get("FuncCall", {})
    if call and call["funcname"][-1]["String"]["sval"] == "shard_of":
        return call["args"][0]
    return None


def _named(made, names):
    """Columns under the names that an alias gives them."""
    return [(names[at] if at < len(names) else name, of) for at, (name, of) in enumerate(made)]


def report(text, columns):
    """`columns`: of each table."""
    return Statement(text, columns).report()
