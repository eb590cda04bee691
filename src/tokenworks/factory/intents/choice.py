"""Models by intent: a client names what matters to it (`auto`, `auto:fast` …), and each request gets the model that fits.

Models that can't have the request are excluded first: the subscriber may not use them, no deployment serves them now, their context is
too small, they take no images. Then the estimated difficulty of the request, from readable features, says which quality the model
needs. Among the models that are good enough the intent decides: by cost to the subscriber, predicted first token, or quality.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, Field

from tokenworks.factory.model import MODEL_PATTERN
from tokenworks.factory.placing.request import Objective

Modality = Literal["text", "image", "audio", "video", "file"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
Filing = Literal["filed", "pending", "exempt", "none"]
FILINGS: Final[tuple[Filing, ...]] = get_args(Filing)
INTENT_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,31}(:[a-z0-9][a-z0-9-]{0,31})?$"
# The quality of a model without a declared one.
QUALITY_UNKNOWN: Final = 50
# The most of a request's text that is read to estimate its difficulty.
TEXT_CHARS_MAX: Final = 8_000


class ModelCard(BaseModel):
    """What is declared of a model, for all of its deployments."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=MODEL_PATTERN)]
    # From 0 to 100 on the operator's own scale; an easy request needs about 30, the hardest 90.
    quality: int | None = Field(default=None, ge=0, le=100, strict=True)
    modalities: tuple[Modality, ...] = Field(default=("text",), min_length=1)
    tools: bool = True
    # Whether the model is filed as a generative AI service (the Interim Measures of 2023-08-15, article 17), and its filing number.
    filing: Filing = "none"
    filing_no: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class Intent(BaseModel):
    """A name that clients may use instead of a model's name, and its meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(pattern=INTENT_PATTERN)]
    objective: Objective = "balance"
    # The models to choose from; empty: all models with a declared quality.
    models: tuple[Annotated[str, Field(pattern=MODEL_PATTERN)], ...] = Field(default=(), max_length=100)
    quality_min: int = Field(default=0, ge=0, le=100, strict=True)


BUILT_IN: Final = {
    intent.name: intent
    for intent in (
        Intent(name="auto", objective="balance"),
        Intent(name="auto:fast", objective="latency"),
        Intent(name="auto:cheap", objective="cost"),
        Intent(name="auto:best", objective="quality"),
    )
}


class Requirements(NamedTuple):
    """What a request needs of a model. `difficulty` from 0 to 1."""

    difficulty: float = 0.0
    modalities: frozenset[str] = frozenset()
    tools: bool = False
    input_tokens: int = 1
    output_tokens: int = 1


class Option(NamedTuple):
    """A model that may have a request. `cost`: to the subscriber, in a `unit` that all options share; `paid`: whether one of the
    subscriber's buckets is known to pay for the model; `operator_nano`: the cost to the operator in nano yuan.
    """

    model: str
    card: ModelCard
    first_token_ms: float
    cost: int
    unit: str = ""
    paid: bool = True
    operator_nano: int = 0


class Choice(NamedTuple):
    model: str
    reason: str


def models_meant(intent: Intent, cards: Mapping[str, ModelCard]) -> list[str]:
    """The models that an intent names; if it names none, all models with a declared quality."""
    return list(intent.models) or sorted(name for name, card in cards.items() if card.quality is not None)


def unfit(card: ModelCard, requirements: Requirements, *, filing_required: bool = False) -> str | None:
    """Return why a model can't have a request at any deployment; None if it can."""
    missing = requirements.modalities - set(card.modalities)
    if missing:
        return f"modality: it takes no {', '.join(sorted(missing))}"
    if requirements.tools and not card.tools:
        return "tools: it calls none"
    if filing_required and card.filing not in {"filed", "exempt"}:
        return f"filing: {card.name} is not filed ({card.filing})"
    return None


# The quality that the easiest and the hardest request need, and by how much less is enough for intents that are to be cheap or fast.
QUALITY_EASY: Final = 25.0
QUALITY_HARD: Final = 90.0
_LENIENCE: Final[dict[Objective, float]] = {"latency": 10.0, "cost": 10.0, "balance": 0.0, "quality": 0.0}


def quality_needed(difficulty: float, objective: Objective = "balance") -> float:
    """The quality that a request needs: a logistic step around the middle, because few requests are half hard."""
    steep = 1.0 / (1.0 + math.exp(-12.0 * (difficulty - 0.5)))
    return QUALITY_EASY + (QUALITY_HARD - QUALITY_EASY) * steep - _LENIENCE[objective]


def rank(intent: Intent, requirements: Requirements, options: Sequence[Option]) -> list[Choice]:
    """The models for a request, the best first, each with the reason for its rank. Models that are good enough come before the others.

    Costs are compared in one unit. If buckets of several units would pay, the operator's costs are compared instead.
    """
    if len({option.unit for option in options if option.paid}) > 1:
        options = [option._replace(cost=0, unit="") for option in options]
    needed = max(float(intent.quality_min), quality_needed(requirements.difficulty, intent.objective))
    highest = max((_quality(option) for option in options), default=0)
    # If no model has the needed quality, the best of them is good enough.
    bar = min(needed, float(highest))

    def key(option: Option) -> tuple[object, ...]:
        quality = _quality(option)
        enough = quality >= bar
        head = (not option.paid, not enough, 0 if enough else -quality)
        if intent.objective == "quality":
            return (
                not option.paid,
                -quality,
                option.cost,
                option.operator_nano,
                option.first_token_ms,
                option.model,
            )
        if intent.objective == "latency":
            return (
                *head,
                round(option.first_token_ms / 50.0),
                option.cost,
                option.operator_nano,
                option.model,
            )
        return (*head, option.cost, option.operator_nano, option.first_token_ms, -quality, option.model)

    seems = "hard" if requirements.difficulty >= 0.5 else "easy"
    found = []
    for option in sorted(options, key=key):
        reason = f"{intent.name}: seems {seems} ({requirements.difficulty:.2f}), quality {bar:.0f} is enough, {option.model} has {_quality(option)}"
        if intent.objective == "quality":
            reason = f"{intent.name}: the best that may have it, quality {_quality(option)}"
        reason += f", costs about {option.cost} {option.unit}" if option.unit else ""
        if intent.objective == "latency":
            reason += f", first token in about {option.first_token_ms:.0f} ms"
        found.append(Choice(option.model, reason))
    return found


def _quality(option: Option) -> int:
    return QUALITY_UNKNOWN if option.card.quality is None else option.card.quality


# The difficulty of a request.

_WORD: Final = re.compile(r"[A-Za-z]+|[\u4e00-\u9fff]")
_REASONING: Final = re.compile(
    r"prov(?:e|ing)\b|proof|deriv(?:e|ation)|theorem|lemma|integral|eigen|asymptotic|complexity|np-hard|induction|"
    r"probability|expected value|bayes|counterexample|invariant|optimi[sz]|trade-?offs?|root cause|"
    r"证明|推导|定理|积分|特征值|复杂度|归纳|概率|期望|反例|不变量|最优|权衡|根因|方程组|博弈",
    re.IGNORECASE,
)
_BUILDING: Final = re.compile(
    r"\bimplement|\brefactor|\bdebug|\bdeadlock|race condition|concurren|thread-?safe|distributed|architect|migrat|"
    r"\bdesign (?:a|an|the)\b|\bschema\b|\bscheduler\b|stack trace|traceback|segfault|\bprotocol\b|consisten|"
    r"实现|重构|调试|死锁|竞态|并发|线程安全|分布式|架构|迁移|设计一|方案|一致性|调度器|协议",
    re.IGNORECASE,
)
_JUDGING: Final = re.compile(
    r"\banaly[sz]e|\bcompare|\bevaluate|\bcritique|\bassess|\bargue\b|\bstrategy\b|implications?|step by step|"
    r"diagnos|contract clause|liabilit|regulat|forecast|\bvaluation\b|hypothes|"
    r"分析|比较|评估|论证|批判|策略|影响|逐步|诊断|条款|责任|合规|预测|估值|假设|利弊",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(
    r"\btranslate|\bsummari[sz]e|\bwhat (?:is|are|does)\b|\bdefine\b|\blist\b|\bspell|\bgrammar\b|\brephrase|\bhello\b|\bhi\b|"
    r"\bthank|\bextract\b|\bcapital of\b|\bclassify\b|\bconvert\b|\bname (?:a|an|three|five)\b|\bsynonym|\bheadline|\bgreeting|"
    r"翻译|总结|概括|是什么|什么是|列出|改写|润色|你好|谢谢|提取|分类|标题|换算|近义词|祝福|几点|天气|首都|错别字|怎么读|口号",
    re.IGNORECASE,
)
_MUST: Final = re.compile(
    r"\bmust\b|\bonly\b|\bwithout\b|\bat most\b|\bat least\b|\bexactly\b|必须|不得|不能|至少|最多|同时|只能",
    re.IGNORECASE,
)
_CODE: Final = re.compile(r"```|\bdef |\bclass |#include|SELECT .+ FROM|=>|\{\s*\n|;\s*\n")
_MATH: Final = re.compile(
    r"[∑∫√≤≥≠∈∀∃]|\\frac|\^\d|\bO\(|[a-z]\s*=\s*[a-z\d]|\d\s*[+*/^]\s*\d", re.IGNORECASE
)


class Features(NamedTuple):
    """What is measured of a request's text, each from about 0 to 1."""

    length: float
    reasoning: float
    building: float
    judging: float
    plain: float
    musts: float
    code: float
    math: float
    effort_level: float
    tools: float


# Fitted by logistic regression on half of the labelled requests (`requests.yaml`, those at even positions). No request there names an
# effort or brings tools, so the last two weights are set by hand.
WEIGHTS: Final = Features(3.2, 3.2, 2.9, 3.3, -2.0, 2.4, 0.4, 1.1, 2.0, 0.5)
BIAS: Final = -2.4


def features(text: str, *, effort: str | None = None, tools: int = 0) -> Features:
    """`text` is the last user message; `effort` is the reasoning effort that the client asks for."""
    text = text[:TEXT_CHARS_MAX]
    words = len(_WORD.findall(text))

    def density(pattern: re.Pattern[str], enough: int) -> float:
        """How many different matches there are, as a share of `enough`, at most 1."""
        return min(1.0, len({match.lower() for match in pattern.findall(text)}) / enough)

    return Features(
        length=min(1.0, math.log1p(words) / math.log1p(400)),
        reasoning=density(_REASONING, 2),
        building=density(_BUILDING, 2),
        judging=density(_JUDGING, 2),
        plain=density(_PLAIN, 1),
        musts=density(_MUST, 3),
        code=density(_CODE, 1),
        math=density(_MATH, 1),
        effort_level={"high": 1.0, "xhigh": 1.0, "medium": 0.5}.get(effort or "", 0.0),
        tools=min(1.0, tools / 8),
    )


def difficulty(found: Features) -> float:
    """From 0 (easy) to 1 (hard)."""
    total = BIAS + sum(weight * value for weight, value in zip(WEIGHTS, found, strict=True))
    return 1.0 / (1.0 + math.exp(-total))
