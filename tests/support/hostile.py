"""Values of unexpected types at any place of a decoded JSON value, for the tests of what reads them."""

import copy

TWISTS = (None, True, False, 0, -1, 2**40, 1.5, "", "x", [], {}, [None], [[]], {"type": "text"}, {"type": []}, ["a", 1], {"x": {"y": []}})  # fmt: skip


def twisted(seeded, value, changes_max=3):
    """A copy of the value in which up to `changes_max` places have other values or are missing. `seeded`: a `random.Random`."""
    whole = copy.deepcopy(value)
    for _ in range(seeded.randint(1, changes_max)):
        places = list(_places(whole))
        if not places:
            break
        holder, key = seeded.choice(places)
        if isinstance(holder, dict) and seeded.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(seeded.choice(TWISTS))
    return whole


def _places(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield value, at
            yield from _places(inner)
