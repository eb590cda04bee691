"""The part of PromQL that our rules and boards use: `metrics_of` reads an expression whole, or fails at what is none."""

import re

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?![\w.]))|(?P<word>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<text>\"(?:[^\"\\]|\\.)*\")"
    r"|(?P<range>\[(?:\d+[smhd]|\$__rate_interval)\])|(?P<op>==|!=|>=|<=|=~|!~|[-+*/%^(){},=<>]))"
)
_AGGREGATES = {"sum", "min", "max", "avg", "count", "topk"}
# Function -> (arguments, whether the last one is a range).
_FUNCTIONS = {
    "rate": (1, True), "increase": (1, True), "time": (0, False), "histogram_quantile": (2, False), "clamp_min": (2, False), "max_over_time": (1, True),
}  # fmt: skip
_LEVELS = (
    ("or",),
    ("and", "unless"),
    ("==", "!=", ">", "<", ">=", "<="),
    ("+", "-"),
    ("*", "/", "%"),
    ("^",),
)


class _Expression:
    def __init__(self, text):
        self.tokens, at = [], 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            assert found, f"{text!r} at {at}"
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self.at = 0
        self.metrics = {}

    def peek(self):
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, wanted=None):
        assert self.at < len(self.tokens), f"it ends where {wanted or 'more'} was to come"
        kind, text = self.tokens[self.at]
        assert wanted is None or text == wanted, f"{text!r} in place of {wanted!r}"
        self.at += 1
        return kind, text

    def names(self):
        """Labels in parentheses."""
        self.take("(")
        found = []
        while self.peek() != ")":
            kind, name = self.take()
            assert kind == "word"
            found.append(name)
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        return found

    def expression(self, level=0):
        if level == len(_LEVELS):
            return self.primary()
        ranged = self.expression(level + 1)
        while self.peek() in _LEVELS[level]:
            self.take()
            assert not ranged, "a range takes part in no operation"
            if self.peek() in {"on", "ignoring"}:
                self.take()
                self.names()
                if self.peek() in {"group_left", "group_right"}:
                    self.take()
                    self.names()
            assert not self.expression(level + 1), "a range takes part in no operation"
        return ranged

    def primary(self):
        """Whether it is a range."""
        kind, text = self.take()
        if kind == "number":
            return False
        if text == "(":
            ranged = self.expression()
            self.take(")")
            return ranged
        assert kind == "word", f"{text!r}"
        if text in _AGGREGATES:
            if self.peek() in {"by", "without"}:
                self.take()
                self.names()
            self.take("(")
            if text == "topk":
                assert self.take()[0] == "number"
                self.take(",")
            assert not self.expression()
            self.take(")")
            return False
        if self.peek() == "(":
            self.call(text)
            return False
        return self.selector(text)

    def call(self, name):
        count, ranged = _FUNCTIONS[name]
        self.take("(")
        for number in range(count):
            if number:
                self.take(",")
            assert self.expression() == (ranged and number == count - 1), f"{name} takes another kind"
        self.take(")")

    def selector(self, name):
        labels = self.metrics.setdefault(name, set())
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                kind, label = self.take()
                assert kind == "word"
                labels.add(label)
                assert self.take()[1] in {"=", "!=", "=~", "!~"}
                assert self.take()[0] == "text"
                if self.peek() != "}":
                    self.take(",")
            self.take()
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "range":
            self.take()
            return True
        return False


def metrics_of(text):
    """{metric: labels that are asked for}."""
    expression = _Expression(text)
    assert not expression.expression(), "a range is no value"
    assert expression.at == len(expression.tokens), f"{text!r} goes on behind its end"
    return expression.metrics
