"""The audit: what the services and the outside systems have in their own books, held against each other.

It never looks at outlast's tables. `audit` is a pure function; `read_books` gets it what it needs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from examples.shop.clocks import no_difference
from examples.shop.ledger import Effect, Ledger
from examples.shop.messages import OVERDUE
from examples.shop.rows import open_reader


@dataclass(frozen=True, slots=True)
class OrderRow:
    """What ordering knows of an order."""

    order_id: str
    total: Decimal
    status: str


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that was written down about some orders, by whom it concerns."""

    accepted: Mapping[str, timedelta]
    """The orders that customers were told were taken, and how long each waits for its label after paying.

    Customers remember it, whatever happens to us.
    """
    orders: Sequence[OrderRow] = ()
    charged: Sequence[Effect] = ()
    """The gateway's ledger: charges and refunds."""
    shipped: Sequence[Effect] = ()
    """The carrier's ledger: labels and voids."""
    payments: Sequence[tuple[str, str, Decimal]] = ()
    """Payment's own entries: order, kind, amount."""
    shipments: Sequence[str] = ()
    """Warehouse's own entries: orders."""
    repeats: int = 0
    """Requests to the gateway and the carrier that had no second effect, thanks to their key."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the audit found. The lists name orders."""

    orders: int
    shipped: int
    refunded: int
    cancelled: int
    waiting: list[str]
    """Neither shipped, refunded nor cancelled, while something is still under way."""
    lost: list[str]
    """The same, with nothing under way that could change it; and orders without a row."""
    charged_twice: list[str]
    refunded_twice: list[str]
    labelled_twice: list[str]
    labels_without_payment: list[str]
    refunded_and_shipped: list[str]
    contradictions: list[str] = field(default_factory=list[str])
    """Books that disagree: sentences."""
    repeats_absorbed: int = 0
    timers_fired: int = 0
    timers_early: list[str] = field(default_factory=list[str])

    @property
    def is_clean(self) -> bool:
        """Every order came to its end, once."""
        return not any(
            (
                self.waiting,
                self.lost,
                self.charged_twice,
                self.refunded_twice,
                self.labelled_twice,
                self.labels_without_payment,
                self.refunded_and_shipped,
                self.contradictions,
                self.timers_early,
            )
        )

    def counts(self) -> dict[str, int]:
        """The report in numbers, as `--json` shows it."""
        return {
            "orders": self.orders,
            "shipped": self.shipped,
            "refunded": self.refunded,
            "cancelled": self.cancelled,
            "waiting": len(self.waiting),
            "lost": len(self.lost),
            "charged_twice": len(self.charged_twice),
            "refunded_twice": len(self.refunded_twice),
            "labelled_twice": len(self.labelled_twice),
            "labels_without_payment": len(self.labels_without_payment),
            "refunded_and_shipped": len(self.refunded_and_shipped),
            "contradictions": len(self.contradictions),
            "repeats_absorbed": self.repeats_absorbed,
            "timers_fired": self.timers_fired,
            "timers_early": len(self.timers_early),
        }


@dataclass(slots=True)
class _Account:
    """One order, as it stands in all books."""

    charges: list[Decimal] = field(default_factory=list[Decimal])
    refunds: list[Decimal] = field(default_factory=list[Decimal])
    labels: int = 0
    voids: int = 0

    @property
    def is_shipped(self) -> bool:
        return self.labels > 0 and not self.voids

    @property
    def is_refunded(self) -> bool:
        return bool(self.refunds)


def audit(books: Books, *, is_quiet: bool, apart: Callable[[float, float], float] = no_difference) -> Report:
    """Holds the books against each other. `is_quiet`: nothing is under way any more.

    `apart` tells by how many seconds the clocks of two processes differed between two moments: so much earlier a
    timer may fire, since one process sets it and another may see that it is due.
    """
    accounts = _accounts(books)
    rows = {row.order_id: row for row in books.orders}
    unended = [id for id in books.accepted if id not in rows or rows[id].status in ("placed", "paid")]
    ended = Counter(row.status for row in books.orders)
    return Report(
        orders=len(books.accepted),
        shipped=ended["shipped"],
        refunded=ended["refunded"],
        cancelled=ended["cancelled"],
        waiting=[] if is_quiet else [id for id in unended if id in rows],
        lost=unended if is_quiet else [id for id in unended if id not in rows],
        charged_twice=[id for id, account in accounts.items() if len(account.charges) > 1],
        refunded_twice=[id for id, account in accounts.items() if len(account.refunds) > 1],
        labelled_twice=[id for id, account in accounts.items() if account.labels > 1],
        labels_without_payment=[id for id, account in accounts.items() if account.labels and not account.charges],
        refunded_and_shipped=[id for id, account in accounts.items() if account.is_shipped and account.is_refunded],
        contradictions=[*_unlike(rows, accounts), *_unentered(books), *_unasked(books, accounts)],
        repeats_absorbed=books.repeats,
        timers_fired=sum(effect.reason == OVERDUE for effect in books.shipped),
        timers_early=list(_early(books, apart)),
    )


def _accounts(books: Books) -> dict[str, _Account]:
    accounts: defaultdict[str, _Account] = defaultdict(_Account)
    for effect in books.charged:
        account = accounts[effect.order_id]
        (account.charges if effect.kind == "charge" else account.refunds).append(effect.amount)
    for effect in books.shipped:
        account = accounts[effect.order_id]
        if effect.kind == "label":
            account.labels += 1
        else:
            account.voids += 1
    return accounts


def _early(books: Books, apart: Callable[[float, float], float]) -> Iterable[str]:
    """Orders given up before their time, as overdue."""
    paid = {effect.order_id: effect.at for effect in reversed(books.charged) if effect.kind == "charge"}
    for effect in books.shipped:
        patience = books.accepted.get(effect.order_id)
        if effect.reason == OVERDUE and patience is not None and effect.order_id in paid:
            since = paid[effect.order_id]
            if effect.at < since + patience.total_seconds() - apart(since, effect.at):
                yield effect.order_id


def _unlike(rows: dict[str, OrderRow], accounts: dict[str, _Account]) -> Iterable[str]:
    """Orders whose status says something else than the ledgers of the outside systems."""
    for id, row in rows.items():
        account = accounts.get(id, _Account())
        is_true = {
            "placed": not account.is_refunded and not account.labels,
            "paid": bool(account.charges),
            "shipped": account.is_shipped,
            "refunded": account.is_refunded and not account.is_shipped,
            "cancelled": not account.charges and not account.labels,
        }[row.status]
        if not is_true:
            yield f"order {id} is {row.status}, and the ledgers say {account}"
        if any(amount != row.total for amount in (*account.charges, *account.refunds)):
            yield f"order {id} costs {row.total}, and the gateway moved other amounts: {account}"


def _unentered(books: Books) -> Iterable[str]:
    """What an outside system did and the service did not enter once, or the other way round."""
    done = Counter((effect.order_id, effect.kind, effect.amount) for effect in books.charged)
    entered = Counter(books.payments)
    for entry in (done - entered) + (entered - done):
        yield f"the gateway has {entry} {done[entry]} times, and payment's books {entered[entry]} times"
    labels = Counter(effect.order_id for effect in books.shipped if effect.kind == "label")
    listed = Counter(books.shipments)
    voided = {effect.order_id for effect in books.shipped if effect.kind == "void"}
    for id in (labels - listed) + (listed - labels):
        if id in voided and labels[id] > listed[id]:
            continue  # the warehouse never heard of the label, which is why it is void
        yield f"order {id} has {labels[id]} labels, and {listed[id]} entries in the list of shipments"


def _unasked(books: Books, accounts: dict[str, _Account]) -> Iterable[str]:
    """Rows and effects for orders that nobody placed."""
    for id in {row.order_id for row in books.orders} | accounts.keys():
        if id not in books.accepted:
            yield f"order {id} was never placed, and is in the books"


async def read_books(url: str, outside: Path, accepted: Mapping[str, timedelta]) -> Books:
    """The books of the shop on this engine, and of the outside systems in this directory."""
    gateway, carrier = Ledger(outside / "gateway.db"), Ledger(outside / "carrier.db")
    with closing(gateway), closing(carrier):
        async with open_reader(url) as reader:
            return Books(
                accepted=accepted,
                orders=[
                    OrderRow(id, Decimal(total), status)
                    for id, total, status in await reader.read("SELECT order_id, total, status FROM orders")
                ],
                charged=gateway.effects(),
                shipped=carrier.effects(),
                payments=[
                    (id, kind, Decimal(amount))
                    for id, kind, amount in await reader.read("SELECT order_id, kind, amount FROM payments")
                ],
                shipments=[id for (id,) in await reader.read("SELECT order_id FROM shipments")],
                repeats=gateway.repeats() + carrier.repeats(),
            )
