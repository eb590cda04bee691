"""Questions about bills by command: listed, shown, written down for who calls, answered; in the audit trail."""

import json

from tokenworks.subscriptions import BILLING_ZONE


def test_a_question_is_listed_and_answered_by_command(server):
    def run(*args):
        return json.loads(server.cli(*args, "--json").stdout)

    then = server.last_month()
    subscriber = then.subscriptions.register("+8613822224444", "Disputing")
    then.orders.place(subscriber, "ctc-light")
    run("bill", "run")
    (bill,) = run("bill", "list", "--subscriber", subscriber.phone)
    number = bill["bill_no"]
    made = run("bill", "dispute", "ask", number, "--line", "1", "--text", "I did not order this.")
    assert (made["state"], made["line_no"], made["amount_nano"]) == ("open", 1, 9_900_000_000)
    listed = server.cli("bill", "dispute", "list", "--subscriber", subscriber.phone).stdout
    for word in (made["dispute_id"], f"{number} / 1", "9.90", "I did not order this."):
        assert word in listed, word
    again = server.cli("bill", "dispute", "ask", number, "--line", "1", "--text", "And why?", check=False)
    assert again.returncode == 1 and "an open question already" in again.stderr
    answered = run("bill", "dispute", "answer", made["dispute_id"], "--text", "You did, by phone.")
    assert answered["answered_by"].startswith("cli:") and answered["state"] == "answered"
    assert run("bill", "dispute", "list", "--subscriber", subscriber.phone) == []
    (all_of_them,) = run("bill", "dispute", "list", "--state", "all", "--subscriber", subscriber.phone)
    assert all_of_them["answer"] == "You did, by phone."
    shown = server.cli("bill", "dispute", "show", made["dispute_id"]).stdout
    asked = server.services.disputes.all(subscriber)[0][0].asked_at.astimezone(BILLING_ZONE)
    assert f"Asked on {asked:%Y-%m-%d}: I did not order this." in shown and "You did, by phone." in shown
    trail = run("audit", "--ref", made["dispute_id"])
    assert [row["action"] for row in trail] == ["bill dispute answer"]
    assert (trail[0]["before"]["state"], trail[0]["after"]["is"]["state"]) == ("open", "answered")
    assert [row["action"] for row in run("audit", "--ref", number)] == ["bill dispute ask"]
