"""What docs/why.md says whatever the figures are: what was done, what a column means, and what is not shown."""

from __future__ import annotations

HEAD = """# Why: one shop in four ways

An order is placed, paid and shipped. This page compares four ways to build that, by figures and not by opinion. It is
written by a program, `make lab` (the folder [`lab`](../lab)), which runs the same shop as

* a **monolith** ([`monolith.py`](../lab/monolith.py)): one process, one database, one transaction for an order;
* **service to service** ([`chained.py`](../lab/chained.py)): Ordering calls Payment, which calls Warehouse;
* a **synchronous orchestrator** ([`orchestrated.py`](../lab/orchestrated.py)): Ordering calls Payment, then
  Warehouse, and Payment again for a refund;
* an **asynchronous workflow** ([`workflow.py`](../lab/workflow.py)): outlast, on SQLite, on PostgreSQL, and on
  RabbitMQ with PostgreSQL. The customer gets 202 and an address that tells how far the order is.

All four share the [business code](../lab/business.py), the Northwind orders, the customers, the [schedule of
faults](../lab/schedule.py) and the [audit](../lab/audit.py). Processes, HTTP, databases and kills are real.
"""
PICTURE = """![Orders left inconsistent, orders taken while services are away, and what it costs](why.svg)
"""
COLUMNS = """Inconsistent: money or goods are not where they should be, seconds after everything was up again and when
nothing moved any more. Errors seen: failures, and requests without an answer, as customers met them. Ordering's status
wrong: its own row says something else than the ledgers of the others, or `placed` for ever. Consistent after: from the
end of the last fault, the longest of all runs.
"""
MONOLITH_SAYS = "A transaction is the strongest tool there is, where it reaches."
UP = """Orders that got a good answer at the first try, by what was wrong at that moment. Ordering takes the orders;
one or two away are Payment and Warehouse. In trouble: slow, failing, or its answers are lost. The database counts as
away until a second and a half after its return, in which its clients find it again. An order placed while all are up
may meet a fault on its way.
"""
COSTS = """Milliseconds, without faults unless it says otherwise. Answer: until the customer has one. Done: until the
goods are shipped, or the money is given back. Longest half done: how long an order stood paid, and neither shipped nor
refunded.
"""
MONOLITH_IS_GOOD = """It left nothing inconsistent, it is the shortest, and nothing is simpler to reason about.
Whoever can keep one database, one deployment and one team should keep them, and needs no workflow for what one
transaction can hold.
"""
MONOLITH_COSTS = """What it costs is not in its ledgers. There is one of everything: a change to one part is a
deployment of all, a part that hangs takes the connections of the others, and everything is up or nothing is. When a
part is down, so is the shop.
"""
HALVES = """## How an order is left half done

*Paid, and not shipped.* What comes next is known to one process, for as long as it lives: Ordering in the
orchestrator, Payment in the chain. If it is killed after the charge, or cannot reach anybody for the refund either,
nobody is left who knows. The customer may press the button again, and often mends it that way; but customers go away.

*Shipped, and not paid.* The warehouse did its work and its answer did not come in time. The caller has a customer
waiting and must decide now, so it guesses that nothing was done, and gives the money back. To guess the other way, and
keep the money, is wrong whenever the call did not arrive. A call that cancels the shipment first is one more call that
may get no answer. More retries make all of this rarer, and the customer's wait longer. A caller with no time cannot
know; the workflow has time, and asks until it is told.
"""
FAIR = """What is fair, and why:

* **The calls are careful.** Payment calls Warehouse with {warehouse} and pauses of {pauses}; the orchestrator calls
  both that way; Ordering calls Payment with {payment}, above all that Payment may need. Every call may be repeated,
  since an order's id is its idempotency key. Who fails undoes its own part. An order that was broken off goes on
  where it was when its customer asks again.
* **There is no job that looks for what was left behind.** Many teams write one in the end: a table of what is still
  to be done, a process that retries it, receivers that bear repetition. That is the fourth way, begun by hand.
* **Customers are the same for all**: {tries} tries, each with a patience of {patience}, the second one {again} after
  an error. Twenty come each second.
* **Every service of the three distributed ways has a database of its own**, with fsync on commit. They are in one
  PostgreSQL, so that it falls for all at the same moment. Of the workflow, Payment and Warehouse too have books of
  their own, which do not commit together with its messages.
"""
LIMITS = """## What this does not show

* **Money is a row** in Payment's own database. With a payment provider outside, all four ways, the monolith too, can
  be killed between the provider's work and their own commit, and need the provider's idempotency key. [The
  shop](shop.md) shows that.
* **Minutes are seconds here.** Faults last one to three seconds, and patience is as short. What is above that of the
  callers has the same effect for an hour, on more orders.
* **The faults are ours.** How often they come in your house decides how many orders it is; not whether there are any.
* **The broker stays up** in these runs, since the other ways have none. [The shop's chaos run](shop.md) kills it.
"""
