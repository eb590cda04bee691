"""Writes docs/MODELS.md from the shipped catalogue of models: `python -m tokenworks.factory.facts.models_page > docs/MODELS.md`. A test fails
if the file differs.
"""

from collections.abc import Iterator
from typing import Final

from tokenworks.factory.facts.list_prices import ListPrice, source_date
from tokenworks.factory.facts.model_facts import ModelFacts, shipped_facts

# Makers in China come first.
_FIRST: Final = (
    "DeepSeek", "Zhipu", "Alibaba", "Moonshot", "MiniMax", "ByteDance", "Tencent", "Baidu", "StepFun", "China Telecom TeleAI", "iFlytek", "01.AI",
    "Baichuan", "Xiaomi", "Meituan", "Ant",
)  # fmt: skip
_HEAD: Final = """# Models

Written from `src/tokenworks/factory/vendors/models/*.yaml` by `python -m tokenworks.factory.facts.models_page`; do not edit it here.

The shipped catalogue has {models} models of {makers} makers: figures that makers, sellers and price lists publish, with their sources and dates. An empty cell means "not known", never "no". Prices are list prices per million tokens as their sellers publish them, input / output, of the lowest tier; the date is that of the source. They pay nothing: what customers pay is in the [catalogue](CATALOGUE.md), what the operator pays stands with each deployment. Filings as a generative AI service are not in the catalogue, because no source was read that has them; only `tokenworks model set --filing` declares one, no import does.

- `tokenworks model list` and `tokenworks model show NAME` show all figures, names at sellers, tiers and sources, beside what is declared and deployed here.
- `tokenworks deployment add` takes context, output and price from it, and the model's modalities, where they are left out (`--no-facts`: it takes nothing). A price is taken only if the deployment's `--vendor` or `--profile` is a seller of the model: in yuan, or in dollars if the setting `usd_yuan` has a rate. Of prices by the hour the dearest counts, of prices by length the lowest tier; each is rounded up to a whole nano yuan per token.
- `tokenworks model import FILE` lays a file over it: our own YAML, LiteLLM's `model_prices_and_context_window.json`, or what OpenRouter's `GET /api/v1/models` answers. It shows the difference first, and takes what is right of a faulty file. The same file again changes nothing. `tokenworks model remove NAME` removes an import.
- `GET /v1/models` tells clients of the models that are served, in the fields of OpenAI, Anthropic and OpenRouter. `pricing` there is the account's own, in units of its plan (`unit`) per token; it is null if no product of the account sells the model. A model that is sold under a name of the operator's own shows figures, and no name of its maker. Anthropic's `limit`, `after_id` and `before_id` page the list; without them it is whole.

A file of our own has this form; every field but `id` may be left out, and amounts are decimals:

```yaml
format: tokenworks-models/2
maker: Example
seller: example
models:
- id: example-1
  context_tokens: 131072
  output_tokens_max: 8192
  input: [text, image]
  tools: true
  vendor_ids: {{example: example-1}}
  prices:
  - {{currency: CNY, region: cn, input: '2', cached_input: '0.2', output: '8'}}
```
"""


def page() -> str:
    """The text of docs/MODELS.md."""
    by_maker: dict[str, list[ModelFacts]] = {}
    for facts in shipped_facts().values():
        by_maker.setdefault(facts.maker or "", []).append(facts)
    makers = [
        *(name for name in _FIRST if name in by_maker),
        *(name for name in by_maker if name not in _FIRST),
    ]
    lines = [_HEAD.format(models=len(shipped_facts()), makers=len(makers)).rstrip()]
    for maker in makers:
        lines += ["", f"## {maker}", ""]
        lines += [
            "| model | released | context | output | takes | tools | reasoning | open weights | list prices |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_row(facts) for facts in by_maker[maker]]
    return "\n".join(lines) + "\n"


def _row(facts: ModelFacts) -> str:
    status = f" ({facts.status})" if facts.status else ""
    cells = (
        f"`{facts.id}`{status}", facts.released or "", _number(facts.context), _number(facts.output_tokens_max), ", ".join(facts.input),
        _yes(facts.tools), _yes(facts.reasoning), _yes(facts.open_weights), "; ".join(_prices(facts)),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _prices(facts: ModelFacts) -> Iterator[str]:
    for price in facts.prices:
        if price.input is not None:
            yield f"{price.input} / {price.output or '?'} {price.currency}{_where(price)}, {_dated(price)}"


def _where(price: ListPrice) -> str:
    hours = "" if price.schedule is None else " " + price.schedule.partition(":")[0]
    return f" at {price.seller}{hours}" if price.seller else hours


def _dated(price: ListPrice) -> str:
    return source_date(price).replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
