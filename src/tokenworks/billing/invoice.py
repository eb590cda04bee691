"""A bill as a PDF in Chinese or English, and as the data of the PDF."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypedDict

from tokenworks.billing.model import Bill, CreditNote
from tokenworks.charging import BillLine
from tokenworks.kernel import Unavailable, format_money, format_tokens, shown
from tokenworks.subscriptions import Subscriber, day_of, last_day
from tokenworks.texts import CATALOGUES, Language

_FONT: Final = "Noto Sans CJK SC"
_OTHER_FONTS: Final = ("Source Han Sans SC",)


class InvoiceLine(TypedDict):
    """A line of the PDF, as texts."""

    what: str
    quantity: str
    count: str
    tax: str
    amount: str


class InvoiceNote(TypedDict):
    """A credit note on the PDF, as texts."""

    number: str
    reason: str
    amount: str


class InvoiceData(TypedDict):
    """All that the PDF shows; `invoice.typ` computes nothing. `words` are the PDF's own texts in the language."""

    language: Language
    words: dict[str, str]
    operator: str
    number: str
    issued_s: int
    subscriber: str
    period: str
    issued: str
    due: str
    to_pay: str
    settled: str
    tax: str
    amount: str
    lines: list[InvoiceLine]
    notes: list[InvoiceNote]


def invoice_data(
    bill: Bill,
    lines: Sequence[BillLine],
    notes: Sequence[CreditNote],
    subscriber: Subscriber,
    quantities: Mapping[int, tuple[int, str]],
    operator: str,
    language: Language,
) -> InvoiceData:
    """A bill and what is open on it now, as texts in a language. `quantities`: line -> (thousandths of the unit, unit) of what it brought."""

    def quantity(line: BillLine) -> str:
        amount, unit = quantities.get(line.line_no, (0, "token"))
        return format_tokens(amount, unit, language) if amount else ""

    words = CATALOGUES[language].invoice
    name = f"{shown(subscriber.name)} " if subscriber.name else ""
    return {
        "language": language,
        "words": {name: text for name, text in words.items() if not name.startswith("kind_")},
        "operator": shown(operator),
        "number": bill.bill_no,
        "issued_s": int(bill.issued_at.timestamp()),
        "subscriber": f"{name}{subscriber.phone_masked}",
        "period": f"{day_of(bill.period_start)} – {last_day(bill.period_end)}",
        "issued": day_of(bill.issued_at),
        "due": day_of(bill.due_at),
        "to_pay": _yuan(bill.remaining_nano),
        "settled": _yuan(bill.remaining_nano - bill.amount_nano)
        if bill.remaining_nano < bill.amount_nano
        else "",
        "tax": _yuan(bill.tax_nano),
        "amount": _yuan(bill.amount_nano),
        "lines": [
            {
                "what": shown(line.description_zh if language == "zh" else line.description)
                + words.get(f"kind_{line.kind}", ""),
                "quantity": quantity(line),
                "count": str(line.charges),
                "tax": _yuan(line.tax_nano),
                "amount": _yuan(line.amount_nano),
            }
            for line in lines
        ],
        "notes": [
            {
                "number": note.credit_note_no,
                "reason": shown(note.reason),
                "amount": _yuan(-note.amount_nano),
            }
            for note in notes
        ],
    }


def _yuan(amount_nano: int) -> str:
    return f"{'−' if amount_nano < 0 else ''}¥{format_money(abs(amount_nano))}"


def font_folders(fonts_dir: Path | None) -> list[Path]:
    """Folders that are searched for a Chinese font beside the system's: the operator's, and the font package's if it is installed."""
    folders = [] if fonts_dir is None else [fonts_dir]
    spec = find_spec("mplfonts")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "fonts")
    return folders


def render_pdf(data: InvoiceData, fonts_dir: Path | None = None) -> bytes:
    """The PDF of `invoice_data`. Raises `Unavailable` if there is no font that shows Chinese."""
    import typst  # noqa: PLC0415 - the typesetter is loaded only when a bill is printed

    folders = font_folders(fonts_dir)
    fonts = typst.Fonts(include_system_fonts=True, font_paths=[str(folder) for folder in folders])
    if not {_FONT, *_OTHER_FONTS} & set(fonts.families()):
        raise Unavailable(
            f"no font here shows Chinese: put {_FONT} into a folder and set fonts_dir to it, or install its system package"
        )
    template = files("tokenworks.billing").joinpath("invoice.typ").read_bytes()
    pdf = typst.compile(
        template,
        font_paths=fonts,
        sys_inputs={"bill": json.dumps(data, ensure_ascii=False)},
        format="pdf",
        timestamp=data["issued_s"],  # so that the same bill gives the same bytes
    )
    assert isinstance(pdf, bytes)
    return pdf
