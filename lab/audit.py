"""The audit: what customers were told, and what is in the ledgers, held against each other. Values only.

It is the same for every way to build the shop, and knows none of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.customers import ACCEPTED, REFUSED, Told


@dataclass(frozen=True, slots=True)
class Row:
    """What Ordering has of an order."""

    order_id: str
    total: str
    status: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A charge, a refund or a shipment."""

    order_id: str
    kind: str
    amount: str
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Ledgers:
    """What the services have written down."""

    orders: Sequence[Row] = ()
    payments: Sequence[Entry] = ()
    shipments: Sequence[Entry] = ()


@dataclass(slots=True)
class Account:
    """One order, as it stands in all ledgers."""

    charges: list[Entry] = field(default_factory=list[Entry])
    refunds: list[Entry] = field(default_factory=list[Entry])
    shipments: list[Entry] = field(default_factory=list[Entry])
    row: Row | None = None
    told: str = ""

    @property
    def is_paid(self) -> bool:
        """The money was taken, and not given back."""
        return len(self.charges) > len(self.refunds)

    @property
    def is_shipped(self) -> bool:
        return bool(self.shipments)

    @property
    def has_wrong_status(self) -> bool:
        """Ordering has it otherwise than the others. An order that is at rest and only placed will stay so for ever."""
        return self.row is not None and self.row.status != ("shipped" if self.is_shipped else "refunded")

    @property
    def has_wrong_amount(self) -> bool:
        """Another amount was moved than the order costs."""
        amounts = {entry.amount for entry in (*self.charges, *self.refunds)}
        return bool(amounts) and (self.row is None or amounts != {self.row.total})


WRONG: dict[str, Callable[[Account], bool]] = {
    "paid_not_shipped": lambda account: account.is_paid and not account.is_shipped,
    "shipped_not_paid": lambda account: account.is_shipped and not account.is_paid,
    "charged_twice": lambda account: len(account.charges) > 1,
    "refunded_twice": lambda account: len(account.refunds) > 1,
    "shipped_twice": lambda account: len(account.shipments) > 1,
    "wrong_amount": lambda account: account.has_wrong_amount,
    "forgotten": lambda account: account.told == ACCEPTED and not account.charges and not account.is_shipped,
}
"""What makes an order inconsistent: money or goods are not where they should be."""
ASTRAY: dict[str, Callable[[Account], bool]] = {
    "status_wrong": lambda account: account.has_wrong_status,
    "refused_and_shipped": lambda account: account.told == REFUSED and account.is_shipped,
}
"""What is not as bad, and not right either: Ordering does not know how an order ended, or the customer does not."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is wrong; the lists name orders."""

    wrong: dict[str, list[str]]
    astray: dict[str, list[str]]

    @property
    def inconsistent(self) -> list[str]:
        """The orders with something of `WRONG`, each once."""
        return sorted({order_id for found in self.wrong.values() for order_id in found})

    @property
    def is_settled(self) -> bool:
        """Nothing is wrong, and Ordering knows it."""
        return not self.inconsistent and not self.astray["status_wrong"]


def audit(told: Sequence[Told], ledgers: Ledgers) -> Findings:
    """Holds them against each other."""
    accounts = accounts_of(told, ledgers)

    def found(claims: dict[str, Callable[[Account], bool]]) -> dict[str, list[str]]:
        return {
            name: sorted(id for id, account in accounts.items() if claim(account)) for name, claim in claims.items()
        }

    return Findings(found(WRONG), found(ASTRAY))


def accounts_of(told: Sequence[Told], ledgers: Ledgers) -> dict[str, Account]:
    """Every order that a customer, or any service, knows of."""
    accounts: defaultdict[str, Account] = defaultdict(Account)
    for one in told:
        accounts[one.order.order_id].told = one.outcome
    for row in ledgers.orders:
        accounts[row.order_id].row = row
    for entry in ledgers.payments:
        account = accounts[entry.order_id]
        (account.charges if entry.kind == "charge" else account.refunds).append(entry)
    for entry in ledgers.shipments:
        accounts[entry.order_id].shipments.append(entry)
    return dict(accounts)
