"""What commands print: 80 columns, one record a block where a table does not fit, money in fen, days of the seller's zone."""

from datetime import UTC, datetime

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from tokenworks.app import views
from tokenworks.app.output import money_text, print_table
from tokenworks.cli.bill import bill_show
from tokenworks.kernel import format_money, format_money_exact
from tokenworks.subscriptions import BILLING_ZONE

ID = "01a21d56-a8ea-7000-9a7e-0561785eb45c"


def printed(*args, width=80, **kwargs):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))
    print_table(*args, to=console, **kwargs)
    return console.export_text()


@pytest.mark.parametrize("cell", [ID, "x" * 300, "好" * 100, "a word " * 40, "", None, datetime(2027, 4, 30, 17, tzinfo=UTC)])  # fmt: skip
@pytest.mark.parametrize("columns", [1, 3, 9])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_lost(cell, columns):
    names = [f"column {number}" for number in range(columns)]
    text = printed("Things", names, [[cell] * columns] * 2)
    assert all(cell_len(line) <= 80 for line in text.split("\n")), text
    if isinstance(cell, str) and cell and " " not in cell:
        folded = text.replace("\n", "").replace(" ", "")
        assert folded.count(cell[:20]) >= 2 * columns
        assert sum(text.count(char) for char in "x好") >= 2 * columns * sum(
            cell.count(char) for char in "x好"
        )


def test_a_table_where_it_fits_else_a_block_a_record():
    table = printed("Things", ["name", "n"], [["a", 1], ["b", 2]])
    assert "┃" in table and table.count("name") == 1
    block = printed(
        "Things", ["id", "other id", "empty", "n"], [[ID, ID, "", 1], [ID, ID, None, 2]], right=["n"]
    )
    assert "┃" not in block and block.split("\n")[1:4] == [
        f"id        {ID}",
        f"other id  {ID}",
        "n         1",
    ]
    assert "empty" not in block
    assert "┃" in printed("Things", ["id", "other id", "empty", "n"], [[ID, ID, "", 1]], width=200)
    assert printed("Things", ["id"], []).strip() == "Things: none"


def test_an_instant_is_told_in_the_sellers_zone():
    assert "2027-05-01 01:00" in printed("Things", ["at"], [[datetime(2027, 4, 30, 17, tzinfo=UTC)]])


@pytest.mark.parametrize(
    ("nano", "fen", "exact"),
    [
        (15_226_967_206, "15.23", "15.226967206"),
        (49_900_000_000, "49.90", "49.90"),
        (5_000_000, "0.01", "0.005"),
        (4_999_999, "0.00", "0.004999999"),
        (-4_999_999, "0.00", "-0.004999999"),
        (-15_225_000_000, "-15.23", "-15.225"),
        (1_234_567_890_000_000, "1,234,567.89", "1,234,567.89"),
        (0, "0.00", "0.00"),
    ],
)
def test_money_is_in_fen_for_people(nano, fen, exact):
    assert (format_money(nano), format_money_exact(nano)) == (fen, exact)


def test_a_bill_says_the_same_everywhere(services, clock, capsys, monkeypatch):
    """The command, the PDF and the charge file: first and last day, the amount."""
    from tokenworks.billing import invoice_data

    clock.move(datetime(2027, 4, 10, 9, tzinfo=BILLING_ZONE) - clock.now())
    subscriber = services.subscriptions.register("+8613800000001")
    services.orders.place(subscriber, "ctc-standard")
    clock.move(datetime(2027, 5, 1, 1, tzinfo=BILLING_ZONE) - clock.now())
    services.bills.run()
    (bill,), _ = services.bills.all(subscriber)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    monkeypatch.setattr("tokenworks.app.tables.console", console)
    views.print_issued_bill(bill, services.bills.lines(bill), [])
    text = console.export_text() + capsys.readouterr().out
    amount = f"{bill.amount_nano // 10**9}.{bill.amount_nano // 10**7 % 100:02d}"
    assert "2027-04-10 to 2027-04-30" in text and amount in text and "2027-05-16" in text
    data = invoice_data(bill, services.bills.lines(bill), [], subscriber, {}, "Tokenworks", "en")
    assert (data["period"], data["to_pay"], data["due"]) == ("2027-04-10 – 2027-04-30", f"¥{amount}", "2027-05-16")  # fmt: skip
    _, file = services.charge_files.make_file()
    assert "|20270410|20270430|" in file


def test_exact_is_asked_for():
    """`--exact` is an option of the commands that print money, and holds for that command alone."""
    import click

    from tokenworks.cli.base import exact_option

    @click.command()
    @exact_option
    def show():
        click.echo(money_text(15_226_967_206))

    run = CliRunner().invoke
    assert (run(show, []).output, run(show, ["--exact"]).output) == ("15.23\n", "15.226967206\n")
    assert any("--exact" in parameter.opts for parameter in bill_show.params)
    assert money_text(15_226_967_206) == "15.23"
