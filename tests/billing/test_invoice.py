"""A bill as a PDF."""

import pypdfium2
import pytest

YUAN = 1_000_000_000


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_bill_is_a_pdf_that_says_it_all(billed, language):
    services, bill = billed
    services.bills.correct(bill, 1, YUAN, "outage")
    pdf = services.documents.pdf(bill, language)
    assert pdf == services.documents.pdf(bill, language)
    document = pypdfium2.PdfDocument(pdf)
    assert len(document) == 1
    text = document[0].get_textpage().get_text_range()
    assert "13800000001" not in text and "0001" in text
    words = {
        "zh": ["账单", "中国电信轻享版", "1,000 万词元", "合计", "¥9.90", "¥0.56", "2027-05-01", "更正"],
        "en": ["Bill", "China Telecom Light", "10,000,000 tokens", "Total", "¥9.90", "¥0.56", "2027-05-01", "Corrections"],
    }[language]  # fmt: skip
    for word in [*words, bill.bill_no]:
        assert word in text, (word, text)
