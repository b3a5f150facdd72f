"""outlast: workflows that outlast failures.

A workflow consumes events and sends commands; state, outgoing messages and the consumption of the incoming one
commit together. Start with `Event`, `Command`, `Workflow` and `Service`; `Worker` and `Client` run them.
"""

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
