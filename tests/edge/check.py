"""What a case expects, held against what came back, what the upstream saw and what the ledger says. Each finding is a sentence."""

import json
import re

from tests.edge.forms import CLASSES

MAXIMA = ("max_tokens", "max_completion_tokens", "max_output_tokens")
SHOWN_CHARS = 120
ANY = 10**18


def within(want, have):
    """True if `have` is the number wanted, or within the range wanted."""
    if isinstance(want, dict):
        return want.get("min", 0) <= have <= want.get("max", ANY)
    return want == have


class Books:
    """The usage records of a case, added up: tokens by class, as charged and as lost, and what was drawn."""

    def __init__(self, rows):
        self.rows = rows
        self.lost = dict.fromkeys(CLASSES, 0)
        self.unnamed = 0  # tokens of a loss without a cause
        self.causes = []
        for row in rows:
            self._add_loss(row)
        self.charged = {name: sum((row.get(name) or 0) for row in rows) - self.lost[name] for name in CLASSES}
        # The offerings of the cases weigh every class 1, so that parts are tokens.
        millitokens = sum(
            part["amount"] if isinstance(part, dict) else part[5]
            for row in rows
            for part in row.get("parts") or []
        )
        self.drawn = millitokens / 1000

    def _add_loss(self, row):
        found = row.get("loss") or []
        if found and not isinstance(found[0], dict):
            found = [{"cause": None, "counts": dict(zip(CLASSES, found[1], strict=False))}]
        for loss in found:
            counts = {name: count for name, count in loss["counts"].items() if count}
            self.causes.append(loss.get("cause"))
            for name, count in counts.items():
                self.lost[name] += count
                self.unnamed += 0 if loss.get("cause") else count

    @property
    def lost_tokens(self):
        return sum(self.lost.values())

    def __str__(self):
        def some(counts):
            return {name: count for name, count in counts.items() if count}

        flags = sorted({flag for row in self.rows for flag in row.get("flags") or []})
        return f"{len(self.rows)} records, charged {some(self.charged)}, drawn {self.drawn:g}, lost {some(self.lost)} {self.causes}, flags {flags}"


def findings(spec, answers, hits, rows):
    """Sentences about what is not as `spec["expect"]` says; none where all is right."""
    expect = spec["expect"]
    books = Books(rows)
    return [
        *of_the_answer(expect, answers),
        *of_the_attempts(expect, hits),
        *of_what_was_sent_on(expect.get("upstream_sees"), hits, answers[0].status),
        *of_the_books(expect, books),
        *of_the_records(expect, books),
    ]


def of_the_answer(expect, answers):
    answer = answers[0]
    text = answer.text
    wanted = expect.get("status")
    if wanted is not None and answer.status not in (wanted if isinstance(wanted, list) else [wanted]):
        yield f"status {answer.status}, not {wanted}: {text[:SHOWN_CHARS]!r}"
    for piece in expect.get("see") or []:
        if not seen(piece, text):
            yield f"the client does not see {piece!r}: {text[-SHOWN_CHARS:]!r}"
    for piece in expect.get("not_see") or []:
        if seen(piece, text):
            yield f"the client sees {piece!r}"
    for name, pattern in (expect.get("headers") or {}).items():
        value = answer.headers.get(name)
        if value is None:
            yield f"no header {name}"
        elif isinstance(pattern, str) and not re.fullmatch(pattern, value):
            yield f"header {name} is {value!r}"
    for name in expect.get("no_headers") or []:
        if name in answer.headers:
            yield f"header {name} passes: {answer.headers[name]!r}"
    said = " ".join(value for name, value in answer.headers.items() if name.startswith("x-")).lower()
    for name in expect.get("says_dropped") or []:
        if answer.status == 200 and name.lower() not in said:
            yield f"no header says that {name} was dropped"
    if answer.took_s > expect.get("took_under_s", ANY):
        yield f"took {answer.took_s:.1f} s"
    if answer.open and "open" not in expect:
        yield "the response has no end"
    ids = {each.headers.get("x-request-id") for each in answers}
    if expect.get("answers_different_ids") and len(ids) != len(answers):
        yield "request ids repeat"


def seen(piece, text):
    return re.search(piece[3:], text) is not None if piece.startswith("re:") else piece in text


def of_the_attempts(expect, hits):
    wanted = expect.get("attempts")
    if wanted is not None:
        low, high = wanted if isinstance(wanted, list) else (wanted, wanted)
        if not low <= len(hits) <= high:
            yield f"{len(hits)} attempts, not {wanted}"
    if "hits_of_one_place" in expect:
        places = [hit.place for hit in hits]
        most = max(map(places.count, places), default=0)
        if most != expect["hits_of_one_place"]:
            yield f"one place was asked {most} times"


def of_what_was_sent_on(wanted, hits, status):
    if not wanted:
        return
    if not hits:
        if status == 200:
            yield "the upstream was not asked"
        return
    hit = hits[-1]
    body = hit.body if isinstance(hit.body, dict) else {}
    names = names_in(body)
    for name in wanted.get("lacks") or []:
        if name in names:
            yield f"sent on: {name}"
    for name, value in (wanted.get("has") or {}).items():
        if name not in body or (value != "any" and body[name] != value):
            yield f"sent on: {name}={json.dumps(body.get(name))[:SHOWN_CHARS]}, not {json.dumps(value)[:SHOWN_CHARS]}"
    for piece in wanted.get("lacks_text") or []:
        if piece.encode() in hit.raw:
            yield f"sent on: {piece}"
    for name in wanted.get("lacks_headers") or []:
        if name in hit.headers:
            yield f"sent on: the header {name}: {hit.headers[name][:SHOWN_CHARS]}"
    for name, pattern in (wanted.get("headers") or {}).items():
        if not re.fullmatch(pattern, hit.headers.get(name, "")):
            yield f"sent on: the header {name}: {hit.headers.get(name)!r}"
    if "path" in wanted and hit.path != wanted["path"]:
        yield f"sent to {hit.path}, not {wanted['path']}"
    if "model_max" in wanted:
        most = max((body.get(name) or 0 for name in MAXIMA), default=0)
        if most > wanted["model_max"]:
            yield f"sent on: a maximum of {most}"


def names_in(value):
    """All names and all texts anywhere in a decoded body: a field that is not sent on is neither."""
    if isinstance(value, dict):
        return set(value) | set().union(*map(names_in, value.values()), set())
    if isinstance(value, list):
        return set().union(*map(names_in, value), set())
    return {value} if isinstance(value, str) else set()


def of_the_books(expect, books):
    charged = expect.get("charged")
    if charged is not None and not charged_as(charged, books):
        yield f"not charged as {charged}: {books}"
    for name, wanted in (expect.get("accounted") or {}).items():
        have = books.charged[name] + books.lost[name]
        if not within(wanted, have):
            yield f"{have} of {name} accounted for, not {wanted}: {books}"
    if "drawn" in expect and not within(expect["drawn"], books.drawn):
        yield f"drawn {books.drawn:g}, not {expect['drawn']}: {books}"
    loss = expect.get("loss")
    if loss == "none" and books.lost_tokens:
        yield f"a loss of {books.lost_tokens}: {books}"
    if isinstance(loss, dict):
        if "tokens" in loss and not within(loss["tokens"], books.lost_tokens):
            yield f"a loss of {books.lost_tokens}, not {loss['tokens']}: {books}"
        if books.unnamed:
            yield f"a loss without a cause: {books}"
    if "truth" in expect:
        truth = sum(expect["truth"].values())
        if books.drawn + books.lost_tokens != truth:
            yield f"the upstream made {truth}; drawn and lost are {books.drawn + books.lost_tokens:g}: {books}"


def charged_as(charged, books):
    joined = charged.get("output+reasoning")
    for name in CLASSES:
        if joined is not None and name in {"output", "reasoning"}:
            continue
        if not within(charged.get(name, 0), books.charged[name]):
            return False
    if joined is not None and not within(joined, books.charged["output"] + books.charged["reasoning"]):
        return False
    # What is charged is what was drawn. One-hour cache writes may weigh more than 1.
    return books.charged["cache_write_1h"] > 0 or books.drawn == sum(books.charged.values())


def of_the_records(expect, books):
    flags = {flag for row in books.rows for flag in row.get("flags") or []}
    for flag in expect.get("flags") or []:
        if flag not in flags:
            yield f"not flagged {flag}: {books}"
    for flag in expect.get("no_flags") or []:
        if flag in flags:
            yield f"flagged {flag}: {books}"
    if "state" in expect and (not books.rows or books.rows[0].get("state") != expect["state"]):
        yield f"the state is {books.rows[0].get('state') if books.rows else None}"
    if "records" in expect and len(books.rows) != expect["records"]:
        yield f"{len(books.rows)} records, not {expect['records']}"
