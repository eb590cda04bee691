from tokenworks.gateway.wheel import Wheel


class Timed:
    def __init__(self):
        self.deadline_s = self.wheel_s = 0
        self.times = 0

    def timed_out(self):
        self.times += 1


def test_a_deadline_fires_once_and_not_early():
    wheel, timed = Wheel(100), Timed()
    wheel.set(timed, 5)
    wheel.tick(105)
    assert timed.times == 0
    wheel.tick(106)
    wheel.tick(200)
    assert timed.times == 1


def test_a_deadline_that_moves_on_does_not_fire():
    wheel, timed = Wheel(0), Timed()
    for now in range(50):
        wheel.set(timed, 3)
        wheel.tick(now)
    assert timed.times == 0
    wheel.tick(60)
    assert timed.times == 1


def test_a_nearer_deadline_comes_first_and_removal_forgets():
    wheel, timed = Wheel(0), Timed()
    wheel.set(timed, 100)
    wheel.set(timed, 2)
    wheel.tick(4)
    assert timed.times == 1
    wheel.set(timed, 10)
    wheel.remove(timed)
    wheel.tick(50)
    assert (timed.times, len(wheel)) == (1, 0)
