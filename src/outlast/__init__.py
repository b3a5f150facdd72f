"""outlast: workflows that outlast failures.

A workflow consumes events and sends commands; state, outgoing messages and the consumption of the incoming one
commit together. Start with `Event`, `Command`, `Workflow` and `Service`; `Worker` and `Client` run them.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # what type checkers take to be true; `typing` itself is half of what help would have to load
if TYPE_CHECKING:
    from typing import Any

    from outlast.client import Client, Outgoing, Sent
    from outlast.core.message import Command, Event, Failed, Message
    from outlast.core.recovery import NO_RETRY, Retry
    from outlast.core.workflow import Workflow, on, starts
    from outlast.errors import OutlastError
    from outlast.runtime.context import Context, Transaction
    from outlast.runtime.service import Service
    from outlast.worker import Worker, run

__all__ = [
    "Command",
    "Event",
    "Failed",
    "Message",
    "Workflow",
    "starts",
    "on",
    "Service",
    "Context",
    "Transaction",
    "Retry",
    "NO_RETRY",
    "Client",
    "Outgoing",
    "Sent",
    "Worker",
    "run",
    "OutlastError",
]

# Found when first asked for (PEP 562), so that `outlast --help` need not load all of it.
_HOMES = {
    "client": ("Client", "Outgoing", "Sent"),
    "core.message": ("Command", "Event", "Failed", "Message"),
    "core.recovery": ("NO_RETRY", "Retry"),
    "core.workflow": ("Workflow", "on", "starts"),
    "errors": ("OutlastError",),
    "runtime.context": ("Context", "Transaction"),
    "runtime.service": ("Service",),
    "worker": ("Worker", "run"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
