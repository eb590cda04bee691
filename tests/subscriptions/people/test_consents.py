"""Consents."""

import hashlib

import pytest

from tests.support.people import balances
from tests.support.receiver import Receiver
from tokenworks.app.ports.notify import deliver
from tokenworks.app.settings import load_settings
from tokenworks.kernel import Unavailable
from tokenworks.subscriptions import ConsentNeeded, ConsentTextChanged, PrivacyRules


def test_a_consent_is_kept_with_the_text_that_was_shown(services, subscriber, remade, tmp_path):
    (zh, en) = (
        services.consents.states(subscriber)[0],
        services.consents.states(subscriber, "en")[0],
    )
    assert (zh.text.purpose, zh.given, zh.answered_at) == ("terms", None, None)
    with pytest.raises(ConsentTextChanged):
        services.consents.keep(subscriber, "terms", given=True, text_sha256="0" * 64)
    services.consents.keep(subscriber, "terms", given=True, text_sha256=en.text.sha256)
    row = services.connection.execute(
        """SELECT c.given, c.said_by, t.text, t.language FROM consent c JOIN consent_text t USING (text_sha256)
           WHERE subscriber_id = %s""",
        (subscriber.subscriber_id,),
    ).fetchall()
    assert row == [(True, "subscriber", en.text.text, "en")]
    assert hashlib.sha256(row[0][2].encode()).hexdigest() == en.text.sha256
    assert not services.consents.states(subscriber)[0].text_changed
    # The operator writes other terms: what was agreed to stays, and is known to be another text.
    (tmp_path / "terms.zh.txt").write_text("新的条款\n", encoding="utf-8")
    (tmp_path / "terms.en.txt").write_text("New terms\n", encoding="utf-8")
    later = remade(consent_texts_dir=str(tmp_path)).consents
    state = later.states(subscriber)[0]
    assert (state.text.text, state.given, state.text_changed) == ("新的条款", True, True)
    with pytest.raises(ConsentTextChanged):
        later.keep(subscriber, "terms", given=True, text_sha256=en.text.sha256)
    (tmp_path / "terms.zh.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(Unavailable, match="can't be read"):
        later.states(subscriber)


def test_withdrawn_terms_stop_orders(services, subscriber, remade):
    services.orders.place(subscriber, "ctc-light")
    services.consents.keep(subscriber, "terms", given=False)
    assert services.consents.refused_by(subscriber) == "terms"
    with pytest.raises(ConsentNeeded):
        services.orders.place(subscriber, "ctc-standard")
    assert len(services.orders.products(subscriber)) == 1
    services.consents.keep(subscriber, "terms", given=True)
    assert services.consents.refused_by(subscriber) is None
    services.orders.place(subscriber, "ctc-standard")
    strict = remade(terms_required="true")
    new = strict.subscriptions.register("+8613800000005")
    with pytest.raises(ConsentNeeded):
        strict.orders.place(new, "ctc-light")
    assert balances(services)


def test_marketing_is_told_with_consent_alone(services, subscriber):
    tell = services.subscriptions.notify
    assert not tell(subscriber.subscriber_id, "marketing.offer", "1", {})
    services.consents.keep(subscriber, "marketing", given=True)
    assert tell(subscriber.subscriber_id, "marketing.offer", "1", {})
    assert tell(subscriber.subscriber_id, "spend", "1", {})
    # Withdrawn before it is sent: it is not sent.
    services.consents.keep(subscriber, "marketing", given=False)
    with Receiver() as receiver:
        options = {"webhook_url": receiver.url, "webhook_allow_private": "true"}
        settings = load_settings({"data_dir": str(services.session_dir / "seed")} | options).settings
        assert deliver(services, settings) == 1
    assert [delivery.event_type for delivery in services.hub.log()[0]] == ["notice.spend"]


@pytest.mark.parametrize(
    ("mode", "consent", "wanted", "regions"),
    [
        ("opt_out", None, None, None),
        ("opt_out", True, ("sg",), ("sg",)),
        ("opt_out", False, None, ("cn",)),
        ("opt_out", False, ("cn-sh", "sg"), ("cn-sh",)),
        ("opt_out", False, ("sg",), ()),
        ("opt_in", None, None, ("cn",)),
        ("opt_in", None, ("cn-sh",), ("cn-sh",)),
        ("opt_in", True, None, None),
    ],
)
def test_where_data_may_go(mode, consent, wanted, regions):
    assert PrivacyRules(cross_border=mode).regions(wanted, consent) == regions
    # A wish for a wider region is cut to the residency region; a name that begins alike is another region.
    assert PrivacyRules(residency_region="cn-sh").regions(("cn", "cnx"), consent=False) == ("cn-sh",)


def test_hosts_hear_of_consents_that_they_enforce(services, subscriber):
    def told():
        return services.connection.execute(
            "SELECT count(*) FROM change WHERE kind = 'account' AND ref = %s", (subscriber.account_id.hex,)
        ).fetchone()[0]

    before = told()
    services.consents.keep(subscriber, "marketing", given=True)
    assert told() == before
    services.consents.keep(subscriber, "data_cross_border", given=False)
    assert told() == before + 1
    assert services.consents.regions_of(subscriber) == ("cn",)
