"""What becomes of a delivery that failed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from statistics import mean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.recovery import NO_RETRY, Patience, Retry, RetryAt, SetAside
from outlast.errors import KeyMissing, Misuse, Undecodable

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
RETRY = Retry(immediate=2, delayed=3, first=SECOND, factor=4, longest=10 * SECOND, jitter=0.5)

retries = st.builds(
    Retry,
    immediate=st.integers(0, 5),
    delayed=st.integers(0, 20),
    first=st.timedeltas(timedelta(), timedelta(days=400)),
    factor=st.floats(1, 1000),
    longest=st.timedeltas(timedelta(), timedelta(days=400)),
    jitter=st.floats(0, 1),
)
dice = st.floats(0, 1, exclude_max=True)


def test_first_at_once_then_later_then_never_again() -> None:
    """RC-01, RC-02: three attempts at once, three later, and the seventh does not come."""
    verdicts = [RETRY.recover(ValueError(), attempt, NOW, 0.0) for attempt in range(1, 7)]

    assert verdicts == [
        RetryAt(None),
        RetryAt(None),
        RetryAt(NOW + SECOND),
        RetryAt(NOW + 4 * SECOND),
        RetryAt(NOW + timedelta(seconds=10 / 1.5)),
        SetAside("ValueError after 6 attempts"),
    ]
    assert RETRY.attempts == 6


def test_an_attempt_beyond_the_last_is_set_aside_too() -> None:
    """RC-01: the policy was made stricter while the message was waiting."""
    assert isinstance(RETRY.recover(ValueError(), 99, NOW, 0.0), SetAside)


def test_without_retries_the_first_failure_is_the_last() -> None:
    assert NO_RETRY.recover(ValueError(), 1, NOW, 0.0) == SetAside("ValueError after 1 attempt")


@pytest.mark.parametrize("error", [Undecodable("it is no envelope"), KeyMissing("it has no key"), Misuse("no")])
def test_what_no_attempt_can_cure_is_set_aside_at_once(error: Exception) -> None:
    """SG-24, RC-03"""
    assert RETRY.recover(error, 1, NOW, 0.0) == SetAside(str(error))


def test_errors_that_were_named_are_given_up_on() -> None:
    """RC-03"""
    retry = Retry(give_up_on=(LookupError,))

    assert isinstance(retry.recover(KeyError("x"), 1, NOW, 0.0), SetAside)
    assert isinstance(retry.recover(ValueError("x"), 1, NOW, 0.0), RetryAt)


def test_a_process_that_is_told_to_exit_is_a_failure_like_any_other() -> None:
    """PO-12"""
    assert RETRY.recover(SystemExit(1), 1, NOW, 0.0) == RetryAt(None)


@given(retries, st.integers(1, 30), dice)
def test_no_delay_is_longer_than_the_longest(retry: Retry, round: int, dice: float) -> None:
    """RC-10"""
    assert timedelta() <= retry.delay(round, dice) <= retry.longest + timedelta(microseconds=1)


@given(retries, st.integers(1, 30), dice)
def test_delays_grow_from_round_to_round(retry: Retry, round: int, dice: float) -> None:
    """RC-10"""
    assert retry.delay(round, dice) <= retry.delay(round + 1, dice)


@given(retries, st.integers(1, 30), dice)
def test_the_dice_stretch_a_delay_by_no_more_than_the_jitter(retry: Retry, round: int, dice: float) -> None:
    shortest, stretched = retry.delay(round, 0.0), retry.delay(round, dice)

    assert shortest <= stretched <= shortest * (1 + retry.jitter) + timedelta(microseconds=2)


def test_messages_that_failed_together_do_not_come_back_together() -> None:
    """RC-10: the spread is more than a tenth of the mean, also when the delay has reached its limit."""
    for round in (1, 20):
        seconds = [Retry().delay(round, number / 1000).total_seconds() for number in range(1000)]

        assert pstdev(seconds) / mean(seconds) > 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        {"immediate": -1},
        {"delayed": -1},
        {"first": -SECOND},
        {"longest": -SECOND},
        {"factor": 0.5},
        {"jitter": 1.1},
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Misuse, match="cannot be followed"):
        Retry(**wrong)


def test_a_message_that_kills_its_process_is_given_up_on() -> None:
    """RC-22"""
    patience = Patience(alone_after=2, limit=3)

    assert patience.refuses(2) is None
    verdict = patience.refuses(3)

    assert verdict is not None
    assert verdict.reason.startswith("its process ended 3 times")


@given(retries)
def test_no_message_is_tried_after_the_horizon(retry: Retry) -> None:
    """OB-15: and the horizon is what the longest delays come to."""
    delays = [retry.delay(round, 1.0) for round in range(1, retry.delayed + 1)]

    assert abs(retry.horizon - sum(delays, timedelta())) < SECOND / 1000


def test_a_horizon_is_found_at_once_however_many_rounds_there_are() -> None:
    assert Retry(delayed=10**15).horizon == timedelta.max
    assert Retry(delayed=10**15, first=timedelta()).horizon == timedelta()
    assert NO_RETRY.horizon == timedelta()
