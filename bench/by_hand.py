"""The order workflow written by hand: its messages, its state and its decisions, as all the limits share them."""

from __future__ import annotations

import os
import time

import msgspec

ORDERING, PAYMENT, WAREHOUSE = range(3)


class Placed(msgspec.Struct, tag="placed"):
    id: str
    order: str
    customer: str
    amount: int
    sku: str


class Pay(msgspec.Struct, tag="pay"):
    id: str
    order: str
    customer: str
    amount: int


class Paid(msgspec.Struct, tag="paid"):
    id: str
    order: str
    payment: str


class Ship(msgspec.Struct, tag="ship"):
    id: str
    order: str
    customer: str
    sku: str


class Shipped(msgspec.Struct, tag="shipped"):
    id: str
    order: str
    label: str


class State(msgspec.Struct):
    order: str
    customer: str
    sku: str
    payment: str = ""
    label: str = ""
    version: int = 1
    done: bool = False


Message = Placed | Pay | Paid | Ship | Shipped

read = msgspec.json.Decoder(Message).decode
read_state = msgspec.json.Decoder(State).decode
write = msgspec.json.Encoder().encode


def new_id() -> str:
    return f"{time.time_ns() // 1_000_000:012x}7{os.urandom(10).hex()[1:]}"


def placed(number: int) -> Placed:
    return Placed(new_id(), new_id(), f"customer-{number % 1000}", 1999, f"sku-{number % 97}")


def decide(message: Placed | Paid | Shipped, state: State | None) -> tuple[State, Pay | Ship | None]:
    """The state after the message, and the command that it leads to."""
    if isinstance(message, Placed):
        begun = State(message.order, message.customer, message.sku)
        return begun, Pay(new_id(), message.order, message.customer, message.amount)
    assert state is not None
    state.version += 1
    if isinstance(message, Paid):
        state.payment = message.payment
        return state, Ship(new_id(), message.order, state.customer, state.sku)
    state.label, state.done = message.label, True
    return state, None


def carry_out(command: Pay | Ship) -> Paid | Shipped:
    if isinstance(command, Pay):
        return Paid(new_id(), command.order, f"pay-{command.order[:8]}")
    return Shipped(new_id(), command.order, f"label-{command.order[:8]}")
