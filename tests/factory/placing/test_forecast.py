"""What is learned of a deployment from the first tokens that pass."""

from hypothesis import given
from hypothesis import strategies as st

from tokenworks.factory.placing.forecast import Forecast


def test_what_waits_is_summed_however_many_there_are():
    forecast = Forecast(0.0, 1.0)
    for n in range(5000):
        forecast.sent(n, 0.0, 1 + n % 7, sure=False)
    assert forecast.wait_ms(0.0) == sum(1 + n % 7 for n in range(5000))
    for n in range(4999):
        forecast.dropped(n)
    assert abs(forecast.wait_ms(0.0) - (1 + 4999 % 7)) < 1e-6
    forecast.dropped(4999)
    assert forecast.wait_ms(0.0) == 0.0


def test_a_rate_that_was_wrong_is_learned():
    forecast = Forecast(0.0, 0.1)
    now = 0.0
    for n in range(40):
        tokens = 2000 + 500 * (n % 7)
        forecast.sent(n, now, tokens, sure=True)
        forecast.first_token(n, now + 80.0 + 0.25 * tokens)
        now += 10_000.0
    assert abs(forecast.ms_per_token - 0.25) < 0.02
    assert abs(forecast.latency_ms + forecast.own_ms(3000) - (80.0 + 750.0)) < 40.0


def test_prompts_wait_for_each_other_where_they_are_read_in_turn():
    forecast = Forecast(0.0, 1.0)
    forecast.sent("a", 0.0, 100, sure=True)
    forecast.sent("b", 0.0, 200, sure=True)
    assert forecast.wait_ms(0.0) == 300.0
    assert forecast.wait_ms(60.0) == 240.0
    assert forecast.wait_ms(1000.0) == 210.0, "what is late is over at any moment"
    forecast.first_token("a", 100.0)
    assert forecast.wait_ms(150.0) == 150.0
    forecast.dropped("b")
    assert not forecast.busy and forecast.wait_ms(150.0) == 0.0
    assert forecast.first_token("b", 160.0) is None


def test_a_vendor_that_works_on_many_at_once_is_no_queue():
    """Of twenty prompts at once each takes 500 ms: the prediction is about that, not twenty times that."""
    forecast = Forecast()
    now, ticket = 0.0, 0
    for _ in range(30):
        sent = [(ticket + n, now + n) for n in range(20)]
        for name, at in sent:
            forecast.sent(name, at, 1000, sure=True)
        for name, at in sent:
            forecast.first_token(name, at + 500.0)
        ticket, now = ticket + 20, now + 2000.0
    for n in range(10):
        forecast.sent(f"w{n}", now, 1000, sure=True)
    foreseen = forecast.latency_ms + forecast.wait_ms(now) + forecast.own_ms(1000)
    assert foreseen < 1500.0


def test_a_deployment_with_few_slots_is_seen_to_be_slow_when_it_is_full():
    forecast = Forecast(50.0, 0.1)
    now = 0.0
    for n in range(200):
        running = n % 8
        forecast.sent(n, now, 500, sure=True, running=running)
        forecast.first_token(n, now + 100.0 + 200.0 * running)
        now += 60_000.0
    assert forecast.running_ms > 50.0


def test_of_a_deployment_that_nothing_is_declared_of_the_first_answers_are_believed():
    unknown, declared = Forecast(), Forecast(50.0, 0.25)
    for n in range(6):
        for forecast in (unknown, declared):
            sent_ms = n * 60_000.0
            forecast.sent(n, sent_ms, 800, sure=True)
            # Ten times as slow as is usual.
            forecast.first_token(n, sent_ms + 100.0 + 2.5 * 800)
    assert 2.0 < unknown.ms_per_token < 3.0
    assert declared.ms_per_token < unknown.ms_per_token / 2, (
        "what was declared is not thrown away for a few answers"
    )
    assert abs(unknown.latency_ms + 800 * unknown.ms_per_token - 2100) < 210


@given(st.floats(0.1, 100_000), st.integers(1, 100_000), st.integers(0, 64))
def test_a_guess_is_never_below_zero_nor_beyond_what_was_seen(taken_ms, tokens, running):
    forecast = Forecast()
    before = forecast.latency_ms + forecast.own_ms(tokens) + forecast.running_ms * running
    forecast.sent("t", 0.0, tokens, sure=True, running=running)
    forecast.first_token("t", taken_ms)
    assert forecast.latency_ms > 0 and forecast.ms_per_token > 0 and forecast.running_ms >= 1.0
    after = forecast.latency_ms + forecast.own_ms(tokens) + forecast.running_ms * running
    assert after <= max(before, taken_ms) * 1.001 + running
