import json

from tokenworks.factory import make_deployment
from tokenworks.factory.facts.profiles import profile_of
from tokenworks.gateway.protocol.fields import parse_body, render

HI = [{"role": "user", "content": "hi"}]


def compact(body):
    return (
        body
        if isinstance(body, bytes)
        else json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    )


def deployment(profile="generic", upstream_model="m", **fields):
    return make_deployment(
        name="a", model="m", upstream_model=upstream_model, base_url="https://x.example/v1", protocols=("chat",), profile=profile, **fields
    )  # fmt: skip


def rendered(body, protocol="chat", *, maximum=None, usage=False, **of_deployment):
    """What goes upstream, and all names that do not."""
    data = compact(body)
    parsed = parse_body(data, protocol)
    place = deployment(**of_deployment)
    out, names = render(parsed, data, place, profile_of(place.profile), maximum=maximum, usage=usage)
    return out, parsed.dropped + names


def sent(body, protocol="chat", **more):
    out, names = rendered(body, protocol, **more)
    return json.loads(out), names
