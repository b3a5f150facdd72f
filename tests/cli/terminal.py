"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 20

SHOP = '''
"""Three services; payment fails for orders whose id begins with `b`, and dawdles for those with `slow`."""
import asyncio
from decimal import Decimal
from outlast import Command, Event, NO_RETRY, Service, Workflow, on, starts

class OrderPlaced(Event):
    order_id: str
    total: Decimal

class PaymentCompleted(Event):
    order_id: str

class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    amount: Decimal
    notes: list[str] = []

class LabelCreated(Event):
    order_id: str

class CreateLabel(Command[LabelCreated], to="warehouse"):
    order_id: str

class Fulfilment(Workflow, key="order_id"):
    paid_at: str | None = None

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        return MakePayment(order_id=event.order_id, amount=event.total)

    @on
    def paid(self, event: PaymentCompleted) -> CreateLabel:
        return CreateLabel(order_id=event.order_id)

    @on
    def shipped(self, event: LabelCreated) -> None:
        self.complete()

ordering = Service("ordering", workflows=[Fulfilment])
payment = Service("payment", retry=NO_RETRY)
warehouse = Service("warehouse")
not_a_service = 7

@payment.handles
async def pay(command: MakePayment) -> PaymentCompleted:
    if command.order_id.startswith("b"):
        raise ValueError(f"[no] money for {command.order_id}")
    if command.order_id.startswith("slow"):
        print("paying", flush=True)
        await asyncio.sleep(0.5 if command.order_id == "slow" else 60)
        print("paid", flush=True)
    return PaymentCompleted(order_id=command.order_id)

@warehouse.handles
async def ship(command: CreateLabel) -> LabelCreated:
    return LabelCreated(order_id=command.order_id)
'''


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        return json.loads(self.err)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "outlast.cli", *arguments]


def environment(**variables: str) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTLAST_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **variables}


def outlast(directory: Path, *arguments: str, typed: str = "", **variables: str) -> Said:
    """Runs `outlast` in a directory; with OUTLAST_URL on its shop.db unless told otherwise."""
    done = subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(**{"OUTLAST_URL": "sqlite:///shop.db", **variables}),
        input=typed,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)
