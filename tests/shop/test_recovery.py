"""What counts as being back at work after a fault."""

from __future__ import annotations

import pytest
from examples.shop.recovery import Pace, Recovery, figures
from examples.shop.watch import Sight


def sight(seconds: float, handled: int, *, placed: int = 100, is_current: bool = True) -> Sight:
    return Sight(
        seconds=seconds,
        orders={"placed": placed},
        waiting={},
        outbox=0,
        dated=0,
        down=(),
        handled=handled,
        handled_per_second=0.0,
        dead_letters=0,
        is_current=is_current,
    )


def test_the_shop_is_back_when_a_second_has_four_fifths_of_what_the_orders_make() -> None:
    """100 orders made 800 messages, and 10 orders come a second: 64 messages are enough."""
    pace = Pace(offered=10.0)
    for seconds, handled in [(10, 100), (11, 110), (12, 173), (13, 237), (14, 800)]:
        pace.saw(sight(seconds, handled))

    assert pace.back_after(10.0) == 2.0


def test_nobody_can_tell_before_a_whole_second_was_seen() -> None:
    pace = Pace(offered=10.0)
    pace.saw(sight(10.0, 0))
    pace.saw(sight(10.5, 800))

    assert pace.back_after(10.0) is None


def test_what_was_not_seen_is_not_taken_for_a_standstill() -> None:
    pace = Pace(offered=10.0)
    for seen in (sight(10, 700), sight(11, 700, is_current=False), sight(12, 800)):
        pace.saw(seen)

    assert pace.back_after(10.0) is None  # 50 in each of two seconds


@pytest.mark.parametrize(
    ("seconds", "p95", "longest", "missed"),
    [
        ([1.0, None], 1.0, 1.0, 1),
        ([float(number) for number in range(1, 101)], 95.0, 100.0, 0),
        ([], 0.0, 0.0, 0),
    ],
)
def test_the_figures_name_the_longest_and_those_that_never_came(
    seconds: list[float | None], p95: float, longest: float, missed: int
) -> None:
    found = figures([Recovery("cut", 0.0, number) for number in seconds])

    assert found["recovery_seconds_p95"] == p95
    assert found["recovery_seconds_max"] == longest
    assert found["recoveries_missed"] == missed
