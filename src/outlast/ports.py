"""What the runtime asks of the world: an engine that keeps messages and state, and the World itself.

Everything here is batch-shaped. An engine knows bytes and names, never message classes. An engine may be one
database (SQLite, PostgreSQL) or a broker with a store; the runtime cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol, runtime_checkable

import msgspec

Receipt = int | str
"""A text is the id of a message that a broker keeps; a number is of one that the engine's own database keeps."""

RELAY = "@relay"
REPLIES = "@replies"
OUTBOX = "@outbox"
"""The queue of a store that has what is to be taken to its broker, one row for each transaction."""


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A plain value that crosses a port."""


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One attempt of the engine to hand over a message."""

    receipt: Receipt
    """Opaque: only the engine that issued it can read it."""
    packet: bytes
    count: int = 0
    """How often it was handed over before without an end: claimed, and then neither handled nor released."""


def by_keeper(deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
    """The deliveries that the database keeps, and those that a broker keeps."""
    brought = [d for d in deliveries if isinstance(d.receipt, str)]
    return ([d for d in deliveries if not isinstance(d.receipt, str)] if brought else list(deliveries)), brought


class Parcel(msgspec.Struct, frozen=True, gc=False):
    """A packet with an address: a service's queue, or the topic of an event, or a waiting request."""

    id: str
    packet: bytes
    queue: str = ""
    topic: str = ""
    reply_to: str = ""
    due: datetime | None = None
    """Not to be delivered before; `None` and the past mean at once."""
    once: bool = False
    """The id was given by the caller: if a parcel with it was posted before, this one is left out."""


def pack(parcels: Sequence[Parcel]) -> bytes:
    """Parcels without dates as one packet, for the outbox."""
    return _PACK([(p.id, p.packet, p.queue, p.topic, p.reply_to) for p in parcels])


def unpack(packet: bytes) -> list[Parcel]:
    """The parcels in a packet of the outbox."""
    return [Parcel(*fields) for fields in _UNPACK(packet)]


def with_id_of_its_own(parcel: Parcel, new_id: Callable[[], str]) -> Parcel:
    """The parcel as a broker is to know it: if the caller gave the id, or nobody did, with a new one.

    A caller's id may come again when the store has forgotten that it was sent; an inbox may remember it longer, and
    would take what is new for a copy.
    """
    return parcel if parcel.id and not parcel.once else msgspec.structs.replace(parcel, id=new_id(), once=False)


_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder(list[tuple[str, bytes, str, str, str]]).decode


class Address(msgspec.Struct, frozen=True, gc=False):
    """Where an instance is found: the service, the workflow's name and the key."""

    service: str
    workflow: str
    key: str


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An instance as the engine has it."""

    state: bytes
    version: int
    done: bool


class Saved(msgspec.Struct, frozen=True, gc=False):
    """An instance as a turn leaves it. `version` is the one it was loaded at, 0 for a new one."""

    address: Address
    state: bytes
    version: int
    conversation: str
    done: bool = False
    keep_until: datetime | None = None


class Withdrawn(msgspec.Struct, frozen=True, gc=False):
    """A dated parcel that is not to be delivered any more."""

    id: str
    due: datetime


class Stash(msgspec.Struct, frozen=True, gc=False):
    """A message kept until its instance exists. To stash where one exists is a `Conflict`."""

    address: Address
    packet: bytes
    until: datetime


class DeadLetter(Value, frozen=True, kw_only=True):
    """A message set aside for a person, with its original bytes."""

    id: str
    service: str
    packet: bytes
    reason: str
    message_id: str = ""
    type: str = ""
    key: str = ""
    conversation: str = ""
    error: str = ""
    traceback: str = ""
    attempts: int = 0
    at: datetime
    host: str = ""
    version: str = ""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of history: what became of one message at one service."""

    conversation: str
    at: datetime
    service: str
    outcome: str
    packet: bytes
    workflow: str = ""
    key: str = ""
    note: str = ""
    """The error of a failed attempt, or why a message had no effect."""
    receipt: Receipt | None = None
    """Of the delivery with this packet, so that an engine that keeps it needs no second copy."""


class Changes(msgspec.Struct):
    """Everything one turn writes. An engine makes all of it true, or nothing."""

    handled: list[Delivery] = []
    """Consumed: will not be delivered again."""
    claimed: list[Delivery] = []
    """Hidden from other workers until `claimed_until`; their count goes up by one."""
    renewed: list[Delivery] = []
    """Claimed by us, and still needed: hidden until `claimed_until` too."""
    claimed_until: datetime | None = None
    released: list[Delivery] = []
    """Claimed by us, and given back uncounted: nobody tried them."""
    parcels: list[Parcel] = []
    withdrawn: list[Withdrawn] = []
    saved: list[Saved] = []
    stashed: list[Stash] = []
    dead: list[DeadLetter] = []
    history: list[Entry] = []


class Statements(Protocol):
    """What user code may do in a transaction of an engine that has a database."""

    @property
    def connection(self) -> Any:
        """The driver's own connection."""
        ...

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """Runs one statement; returns its rows. Placeholders are `?`, or `:name` with a mapping, on every engine."""
        ...

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs one statement for each row of parameters."""
        ...


class Work(Protocol):
    """One transaction of one service. It ends with `commit` or `rollback`, or leaves nothing behind."""

    async def first_sight(self, deliveries: Sequence[Delivery]) -> set[Receipt]:
        """The receipts of those that no committed turn has handled, and that are not someone else's now.

        A delivery that was claimed (its `count` is the one `claim` gave it) is the claimer's as long as
        nobody claimed it anew.
        """
        ...

    async def load(self, addresses: Sequence[Address]) -> Mapping[Address, Stored]:
        """Those of the instances that exist, completed ones included."""
        ...

    def savepoint(self) -> AbstractAsyncContextManager[Statements | None]:
        """A part that can fail alone. Gives access to the transaction, if the engine has a database.

        What the block raises is user code's, and is raised on when the part is undone; `Unavailable` is raised
        instead if the engine was to blame.
        """
        ...

    async def commit(self, changes: Changes) -> None:
        """Makes the changes true. Raises `Conflict` when an instance was changed by another turn or a
        handled delivery is not ours any more, `Unavailable` when the engine failed; then nothing happened.
        """
        ...

    async def rollback(self) -> None:
        """Leaves everything as it was. Harmless after the end."""
        ...


class Engine(Protocol):
    """Keeps queues and state. Safe to use from several tasks of one event loop."""

    connection_type: type[Any] | None
    """The driver's connection class, which transactional handlers may ask for."""
    connection_waits: bool
    """The driver's calls are awaited, so a handler that shares the transaction waits within it."""

    @property
    def trouble(self) -> str:
        """What does not work at the moment, in one sentence; empty when all is well. Nothing is lost by it."""
        ...

    @property
    def turns_at_once(self) -> int:
        """So many turns of one service are worth having under way in this process just now: more than one where a turn
        waits for a server. They see of each other what turns of different processes do.
        """
        ...

    async def declare(self, service: str, topics: Sequence[str]) -> None:
        """Makes sure that the queue exists and gets these topics, and no others. Idempotent; durable at return.

        What a process of this service that died without stopping had claimed becomes deliverable again, and
        what it may have been handling is counted as handed over.
        """
        ...

    async def receive(self, service: str, limit: int) -> Sequence[Delivery]:
        """What is waiting, oldest first, without claiming it; at most `limit`. Empty at once if nothing is.

        Where several turns of a service may be under way at once, what those are about that have begun is left out.
        """
        ...

    async def begin(self, service: str) -> Work:
        """A transaction. Waits its turn; raises `Unavailable` when none is to be had in time."""
        ...

    async def acknowledge(self, service: str, deliveries: Sequence[Delivery]) -> None:
        """Tells a broker that these were handled by a committed turn. Nothing to do where queue and state are one."""
        ...

    async def relay(self, now: datetime, limit: int) -> datetime | None:
        """Puts due parcels into their queues, oldest first, and expired stashes among the dead letters.

        Returns when it should be called next: now, if there was more than `limit`; `None` if nothing is dated.
        """
        ...

    def listen(self, name: str, notify: Callable[[], None]) -> None:
        """Calls `notify` on the event loop whenever something may be there for this service, or for the relay
        (`RELAY`: something new is dated), or for clients (`REPLIES`). A hint: it may come in vain, and rarely
        it may not come.
        """
        ...

    def reply_to(self, request: str) -> str:
        """What a request must carry as its `reply_to`, so that `reply` gets the answer."""
        ...

    async def reply(self, request: str) -> bytes | None:
        """The packet that answers a request, once; `None` while there is none."""
        ...

    async def close(self) -> None:
        """Lets go of everything, and marks this process as having stopped in good order."""
        ...


@runtime_checkable
class SharesConnection(Protocol):
    """An engine whose transactions can run on a connection of the caller's, so that its rows commit with them."""

    async def begin_on(self, connection: Any) -> Work:
        """A transaction on this connection. Raises `Misuse` if it is open on another database, or in one already."""
        ...


@runtime_checkable
class HasSchema(Protocol):
    """An engine whose tables may have to be made by somebody who has the right to, and not by the services."""

    def schema_sql(self) -> str:
        """All SQL that makes the tables."""
        ...

    async def migrate(self) -> None:
        """Brings the tables up to date. Raises `Unavailable`."""
        ...


Posted = Callable[[Delivery], None]
"""Is told of an outbox row after its commit; the row is claimed for whoever is told, for `OUTBOX_LEASE`."""

OUTBOX_LEASE = timedelta(seconds=5)
"""How long what was committed waits for its own process to take it to the broker, before any other does."""


class Store(Engine, Protocol):
    """An engine with a database, which keeps for a broker what the broker cannot: state, dates, inbox and outbox.

    Its queues are the broker's then. A delivery whose receipt is a text is a message that the broker keeps: its
    `first_sight` is that no committed turn of this service has handled that id, and to handle it notes the id in the
    inbox. Claiming, renewing and releasing it is the broker's matter, except that the claim of a suspect (whose
    `count` is not 0) is counted, for `tries`.
    """

    posted: Posted | None
    """If set, parcels that are due go into the outbox instead of into queues, one row for each transaction."""

    async def topics(self, service: str) -> Sequence[str]:
        """What the service was declared with the last time."""
        ...

    async def tries(self, service: str, ids: Sequence[str]) -> Mapping[str, int]:
        """How often these messages were claimed as suspects, those that were."""
        ...


class Finding(Value, frozen=True, kw_only=True):
    """What an examination of an engine found in one respect."""

    what: str
    is_good: bool
    seen: str
    """What it is now."""
    advice: str = ""
    """What to do, if it is not good."""


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A packet that a broker has handed over, and of which it waits to hear."""

    id: str
    """The parcel's. The same whenever it is handed over again."""
    packet: bytes
    count: int
    """How often it was handed over before, as far as the broker knows."""
    tag: Any
    """What the transport knows it by. It is void once the connection is lost."""


class Receiver(Protocol):
    """Who gets what a transport brings. Called on the event loop."""

    def arrived(self, service: str, arrivals: Sequence[Arrival]) -> None:
        """These are for the service, and are kept from others until they are acknowledged or released."""
        ...

    def lost(self, service: str) -> None:
        """What arrived for the service and was not acknowledged will be handed over again, to anybody."""
        ...

    def answered(self, request: str, packet: bytes) -> None:
        """The answer to a request, which was made with our `reply_address`."""
        ...


class Transport(Protocol):
    """A broker: takes packets to queues and keeps them until they are acknowledged. It has no state and no dates.

    It supervises its own connection: whatever happens to that, it comes back with everything that was declared, or
    `trouble` says why not.
    """

    @property
    def name(self) -> str:
        """What and where it is, for people and without a password."""
        ...

    @property
    def reply_address(self) -> str:
        """Where answers reach this process: to what it publishes after it has asked for this, and to nothing before."""
        ...

    @property
    def trouble(self) -> str:
        """What does not work at the moment; empty when all is well."""
        ...

    @property
    def patience(self) -> timedelta:
        """How long the broker waits, unless it is configured otherwise, before it hands over again what was not
        acknowledged though its connection is well.
        """
        ...

    @property
    def can_publish(self) -> bool:
        """Whether a publish can succeed now, as far as is known; what is wrong elsewhere does not count."""
        ...

    def open(self, receiver: Receiver) -> None:
        """Begins to connect, and goes on for ever."""
        ...

    async def declare(self, service: str, topics: Sequence[str], dropped: Sequence[str]) -> None:
        """Makes sure that the queue exists, gets these topics and not the dropped ones, and is consumed from here.

        Raises `Unavailable` when there is no connection in time, and `Misuse` when what exists cannot be used.
        """
        ...

    async def publish(self, parcels: Sequence[Parcel]) -> None:
        """Returns when the broker has all of them as durably as it keeps anything.

        A queue that does not exist is made; an event without subscribers and a late answer vanish. A `reply_to` is a
        request and an address: `request@address`. Raises `Unavailable`; then any of them may have been published.
        """
        ...

    async def acknowledge(self, tags: Sequence[Any]) -> None:
        """Lets the broker forget these. What is void is passed over."""
        ...

    async def release(self, tags: Sequence[Any]) -> None:
        """Lets the broker hand these to anybody again, at once."""
        ...

    async def renew(self, tags: Sequence[Any]) -> None:
        """Tells a broker that would lose patience that these are still being handled."""
        ...

    async def depths(self, services: Sequence[str]) -> Mapping[str, int]:
        """How many messages wait in these queues, those included that were handed over."""
        ...

    async def examine(self) -> Sequence[Finding]:
        """Versions, settings, limits and rights, as far as they matter. Raises `Unavailable`."""
        ...

    async def close(self) -> None:
        """Lets go of everything; what was handed over and not acknowledged goes to others at once."""
        ...


class QueueStatus(Value, frozen=True, kw_only=True):
    """A service as the engine sees it."""

    service: str
    topics: list[str] = []
    waiting: int = 0
    claimed: int = 0
    oldest: datetime | None = None
    """When the message at the head of the queue was sent."""
    dated: int = 0
    dead: int = 0
    workers: int = 0
    """Processes that have it open now; 0 means that the service is down, or was never up."""


class WorkflowStatus(Value, frozen=True, kw_only=True):
    """How many instances of a workflow there are."""

    service: str
    workflow: str
    running: int
    done: int


class InstanceStatus(Value, frozen=True, kw_only=True):
    """One instance, for people."""

    address: Address
    version: int
    done: bool
    conversation: str
    started_at: datetime
    changed_at: datetime
    state: msgspec.Raw = msgspec.Raw(b"null")


class Unhandled(Value, frozen=True, kw_only=True):
    """A message that is still on its way to a service."""

    service: str
    packet: bytes
    due: datetime | None = None
    """Set on what is dated: a timer, a retry, a delayed message."""
    is_claimed: bool = False
    """A worker is at it now."""
    stashed_for: str = ""
    """The workflow whose instance it waits for."""


class DeadLetterStatus(Value, frozen=True, kw_only=True):
    """A dead letter and what has become of it: `open`, `retried` or `archived`."""

    letter: DeadLetter
    status: str


class Inspector(Protocol):
    """What operators may ask of an engine, and do. Reads never change anything."""

    @property
    def trouble(self) -> str:
        """What does not work at the moment; empty when all is well. Then some of the answers may lack something."""
        ...

    async def examine(self) -> Sequence[Finding]:
        """Versions, settings, limits, rights and clocks, as far as they matter. Raises `Unavailable`."""
        ...

    async def queues(self) -> Sequence[QueueStatus]: ...

    async def workflows(self) -> Sequence[WorkflowStatus]: ...

    async def instances(self, *, key: str, done: bool | None, limit: int) -> Sequence[InstanceStatus]:
        """The instances with this key (any, if empty), the latest to begin first."""
        ...

    async def history(self, *, conversation: str, key: str = "", after: int, limit: int) -> Sequence[tuple[int, Entry]]:
        """Numbered lines of history, oldest first, those after number `after`: of this conversation, and of
        instances with this key whatever the conversation; of everything if both are empty.
        """
        ...

    async def unhandled(self, *, conversation: str, scan: int) -> Sequence[Unhandled]:
        """What of a conversation is on its way, among the first `scan` messages of each queue, of what is dated
        and of what is stashed.
        """
        ...

    async def dead_letters(self, *, status: str, id: str, limit: int) -> Sequence[DeadLetterStatus]:
        """Oldest first; `status` and `id` (a prefix) restrict, if not empty."""
        ...

    async def settle(self, parcels: Mapping[str, Parcel | None], *, status: str) -> int:
        """Marks the open ones among these dead letters as `retried` or `archived`, and sends the parcel of
        each in the same transaction; returns how many. So retrying twice sends once.
        """
        ...

    async def clean(self, now: datetime, history_until: datetime, limit: int) -> int:
        """Deletes up to `limit` rows each of what is kept no longer; returns how many rows went."""
        ...


@runtime_checkable
class World(Protocol):
    """Time, chance and ids: the only source of each."""

    def now(self) -> datetime:
        """The time, in UTC."""
        ...

    def new_id(self) -> str:
        """A new unique id; later ones sort after earlier ones."""
        ...

    def dice(self) -> float:
        """A random number in [0, 1)."""
        ...
