"""What Prometheus's text format demands, beyond what its parser takes: `check` returns the families of an exposition."""

import math
import re
from collections import defaultdict

from prometheus_client.parser import text_string_to_metric_families

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)")
_PARTS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("",), "gauge": ("",)}


def check(text):
    """{name of a family as it is written: its type}. Fails where the exposition is not valid."""
    types, helps, seen, samples = {}, {}, set(), defaultdict(list)
    family = None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, words = line.split(" ", 3)
            assert name not in helps, f"{name} is explained twice"
            assert words.strip(), f"{name} is not explained"
            helps[name], family = words, name
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family, f"{name} has a type and no explanation before it"
            assert name not in types, f"{name} has two types"
            types[name] = kind
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            name, labels, value = found.groups()
            assert any(name == family + part for part in _PARTS[types[family]]), f"{name} among {family}"
            assert (name, labels) not in seen, f"{name}{labels} is there twice"
            seen.add((name, labels))
            samples[family].append((name, labels or "", float(value)))
    assert types.keys() == helps.keys()
    for name, kind in types.items():
        assert name.startswith("tokenworks_"), name
        assert (kind == "counter") == name.endswith("_total"), f"{name} is a {kind}"
        if kind == "counter":
            assert all(value >= 0 for _, _, value in samples[name]), name
        if kind == "histogram":
            _check_histogram(name, samples[name])
    # The reference's own parser, too.
    assert len(list(text_string_to_metric_families(text))) == len(types)
    return types


def _check_histogram(name, samples):
    """Each series has its buckets in order, cumulative, up to +Inf, which is its count."""
    series = defaultdict(dict)
    for sample, labels, value in samples:
        bound = re.search(r'le="([^"]+)"', labels)
        rest = re.sub(r',?le="[^"]+"', "", labels).replace("{,", "{").removesuffix("{}")
        series[rest][sample.removeprefix(name), float(bound[1]) if bound else None] = value
    for rest, values in series.items():
        buckets = [(bound, value) for (part, bound), value in values.items() if part == "_bucket"]
        assert [bound for bound, _ in buckets] == sorted(bound for bound, _ in buckets), (name, rest)
        assert [value for _, value in buckets] == sorted(value for _, value in buckets), (name, rest)
        assert buckets[-1] == (math.inf, values["_count", None]), (name, rest)
        assert ("_sum", None) in values, (name, rest)


def value_of(text, name, **labels):
    """The sum of the samples of a name that have these labels."""
    found = 0.0
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if (
            sample
            and sample[1] == name
            and all(f'{key}="{value}"' in (sample[2] or "") for key, value in labels.items())
        ):
            found += float(sample[3])
    return found
