"""What a request that names an intent needs, and which models could have it, each with what it would cost and take now."""

from typing import TYPE_CHECKING, Final

from tokenworks.catalog import Counts, amount
from tokenworks.charging import hold_rate
from tokenworks.factory import MODALITIES, Ask, Intent, Option, Wanted, difficulty, features, unfit
from tokenworks.gateway.fields import Parsed, asked_effort, asked_text, count_tools
from tokenworks.gateway.snapshot import allows

if TYPE_CHECKING:
    from tokenworks.gateway.gateway import Gateway
    from tokenworks.gateway.holding import Holding

# As many modalities as there are: nothing is excluded.
SAYS_NOTHING: Final = MODALITIES
# An answer is thought to have so many tokens where nothing is said.
OUTPUT_TOKENS_GUESSED: Final = 500
# What a part of a message is called in a body, by what it brings. Inside a text the quotes would be escaped.
_SIGNS: Final = {
    "image": (b'"image_url"', b'"input_image"', b'"type":"image"', b'"type": "image"'),
    "audio": (b'"input_audio"', b'"audio_url"'),
    "video": (b'"video_url"', b'"input_video"'),
    "file": (b'"input_file"', b'"type":"file"', b'"type": "file"', b'"type":"document"', b'"type": "document"'),
}  # fmt: skip


def modalities_of(parsed: Parsed) -> frozenset[str]:
    """What a request brings beside text."""
    raw = parsed.fields.get("messages") or parsed.fields.get("input")
    if raw is None:
        return frozenset()
    content = bytes(raw)
    return frozenset(name for name, signs in _SIGNS.items() if any(sign in content for sign in signs))


def wanted_of(parsed: Parsed, protocol: str, input_tokens: int) -> Wanted:
    """`input_tokens`: about; 0 where nobody asks how hard it is."""
    tools = count_tools(parsed)
    hard = 0.0
    if input_tokens:
        hard = difficulty(features(asked_text(parsed, protocol), effort=asked_effort(parsed), tools=tools))
    output = OUTPUT_TOKENS_GUESSED
    if parsed.output_tokens is not None:
        output = min(output, parsed.output_tokens)
    return Wanted(hard, modalities_of(parsed), tools > 0, input_tokens, output)


def options(
    gateway: "Gateway", exchange: "Holding", intent: Intent, wanted: Wanted, ask: Ask
) -> list[Option]:
    """The models that this subscriber may use, that can do it, and that a place serves now."""
    snapshot, user = gateway.snapshot, exchange.user
    assert user is not None
    now_s = gateway.loop.time()
    found: list[Option] = []
    for model in snapshot.models_of(intent):
        if not allows(user.models, intent.name, model):
            continue
        route = snapshot.routes.get((model, exchange.protocol))
        card = snapshot.card_of(model)
        if route is None or unfit(card, wanted, filing_required=gateway.settings.filing_required):
            continue
        best = gateway.placement.explain(route.places, (), ask, now_s)[0]
        if best.excluded is not None:
            continue
        paid = cost_of(gateway, exchange, model, wanted)
        found.append(Option(model, card, best.first_token_ms, *paid, best.cost_nano))
    return found


def cost_of(gateway: "Gateway", exchange: "Holding", model: str, wanted: Wanted) -> tuple[int, str, bool]:
    """What the subscriber pays by the first of his buckets that pays for the model: (thousandths, of which unit, whether one does).

    Of his buckets this worker knows those that it has a part of: none, before his first request here.
    """
    user = exchange.user
    assert user is not None
    counts = Counts(fresh_input=wanted.input_tokens, output=wanted.output_tokens)
    for slice_ in gateway.slices.account(user.account_id).balance:
        rate = hold_rate(slice_.terms, gateway.rate, model)
        if rate is not None:
            return amount(rate.weights, counts), f"thousandths of a {slice_.terms.unit}", True  # fmt: skip
    return 0, "", False
