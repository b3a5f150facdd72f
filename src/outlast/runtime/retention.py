"""Whether what is remembered of handled messages lasts for as long as they may come again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from outlast.runtime.service import Service


def too_short(services: Sequence[Service], *, keep_history: timedelta, patience: timedelta) -> list[str]:
    """What speaks against keeping history, and with it the inbox, for no longer than this.

    `patience`: after how long a broker hands over again what was never acknowledged.
    """
    kept = f"history, and with it the inbox, is kept for {_told(keep_history)}"
    advice = "Give the worker a longer keep_history."
    found: list[str] = []
    if keep_history <= patience:
        found.append(
            f"{kept}, and the broker may wait for {_told(patience)} before it hands over again what was handled and "
            f"not acknowledged: it would be handled twice. {advice}"
        )
    for service in services:
        horizon = max([service.retry.horizon, *_horizons(service)])
        if keep_history < horizon:
            found.append(
                f"{kept}, and service {service.name!r} may try a message again for {_told(horizon)}: another copy of "
                f"it could be handled meanwhile, and its beginning is not told any more. {advice}"
            )
    return found


def _horizons(service: Service) -> list[timedelta]:
    return [plan.retry.horizon for plan in service.routes.handlers.values() if plan.retry is not None]


def _told(duration: timedelta) -> str:
    """Days, hours, minutes or seconds, in words."""
    if duration >= timedelta(days=36_500):
        return "ever"
    for unit, length in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if duration >= 2 * length:
            return f"{duration / length:.3g} {unit}"
    return f"{duration.total_seconds():g} s"
