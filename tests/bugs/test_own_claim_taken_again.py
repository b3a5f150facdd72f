"""What a process that stood still did to its own messages."""

from __future__ import annotations

from outlast.testing.exploring import search
from outlast.testing.faults import Faults
from tests.simulation.workloads import ORDERS, orders


def test_a_process_that_stood_still_does_not_take_its_own_message_again() -> None:
    """A process stood still for longer than its claims were valid, just when a handler was about to finish.

    When it went on, the worker asked for what had finished (nothing yet), and then for what was waiting: its own
    message, whose claim had run out, and whose handler finished while the worker waited for that answer. The
    message was claimed and handled anew; then two results for one message met in one turn, which was refused,
    repeated and refused again, for ever, at full speed. A laptop that sleeps for half a minute is enough.
    Now the worker asks for what has finished after it has learnt what is waiting.
    """
    search(orders, ORDERS, seeds=range(80), faults=lambda seed: Faults(pause=0.2, shuffle=0.7), workers=lambda seed: 1)
