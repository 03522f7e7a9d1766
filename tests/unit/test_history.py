"""What is remembered of a day, and what is foretold from it."""

import sys
import threading

import pytest
from chromad.monitoring.history import History
from hypothesis import given
from hypothesis import strategies as st


def grown(values: list[float], interval: float = 60.0) -> History:
    history = History(["data"])
    for number, value in enumerate(values):
        history.add({"data": value}, now=1000.0 + number * interval)
    return history


def test_straight_growth() -> None:
    history = grown([0.5 + 0.001 * number for number in range(100)])
    assert history.reaches("data", 0.95) == pytest.approx((0.95 - 0.599) / 0.001 * 60, rel=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        [0.5 + 0.01 * number for number in range(9)],  # too few
        [0.5] * 100,
        [0.9 - 0.001 * number for number in range(100)],
        [0.5 + 1e-9 * number for number in range(100)],  # in years
        [],
    ],
)
def test_nothing_is_foretold(values: list[float]) -> None:
    assert grown(values).reaches("data", 0.95) is None


def test_beyond_the_limit_already() -> None:
    assert grown([0.9 + 0.001 * number for number in range(100)]).reaches("data", 0.95) == 0.0


def test_reading_while_a_sample_is_added() -> None:
    history = grown([0.5 + 0.001 * number for number in range(100)])
    problems: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                history.reaches("data", 0.95)
                assert len({len(values) for values in history.series(180).values()}) == 1
            except Exception as error:
                problems.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in readers:
            thread.start()
        for number in range(100, 3000):
            history.add({"data": 0.5 + 0.001 * number}, now=1000.0 + number * 60)
    finally:
        done.set()
        for thread in readers:
            thread.join()
        sys.setswitchinterval(interval)
    assert problems == []


@given(st.integers(0, 3000), st.integers(1, 400))
def test_few_points_with_the_newest(count: int, points: int) -> None:
    history = grown([float(number) for number in range(count)])
    series = history.series(points)
    kept = min(count, 1440)
    assert len(series["data"]) == len(series["time"]) <= points
    if count:
        assert series["data"][-1] == count - 1
        assert series["data"][0] >= count - kept
