"""The bugs that are planted. Each is a change of the real code, of the kind that a hurried author makes."""

from __future__ import annotations

from dataclasses import dataclass

TURN = "runtime/turn.py"
BATCH = "runtime/batch.py"
POST = "runtime/post.py"
FAILURE = "core/failure.py"
STATION = "runtime/station.py"
INSTANCE = "core/instance.py"
MEMORY = "adapters/memory.py"
QUEUES = "adapters/sqlite/queues.py"
WORK = "adapters/sqlite/work.py"
ENGINE = "adapters/sqlite/engine.py"
BROKER = "adapters/broker/engine.py"
POSTMAN = "adapters/broker/postman.py"
TRAY = "adapters/broker/tray.py"

COMMIT = "            await work.commit(changes)\n"
AT_ONCE = """            other = await host.engine.begin(host.name)
            await other.commit({first})
            {clear}
            await work.commit(changes)
"""
AFTERWARDS = """            late, changes.parcels = {late}, {now}
            await work.commit(changes)
            other = await host.engine.begin(host.name)
            await other.commit(Changes(parcels=late))
"""
IMPORT = ("from outlast.ports import Delivery\n", "from outlast.ports import Changes, Delivery\n")


@dataclass(frozen=True, slots=True)
class Bug:
    """A change of the code: in each file, a text that occurs once and what it becomes."""

    name: str
    edits: tuple[tuple[str, str, str], ...]


def bug(name: str, file: str, *texts: tuple[str, str]) -> Bug:
    return Bug(name, tuple((file, old, new) for old, new in texts))


BUGS = [
    bug(
        "message consumed before its work is committed",
        TURN,
        IMPORT,
        (COMMIT, AT_ONCE.format(first="Changes(handled=changes.handled)", clear="changes.handled = []")),
    ),
    Bug(
        "inbox not asked, and consumption not checked",
        (
            (TURN, "mine = [letter for letter in letters if letter.delivery.receipt in fresh]", "mine = list(letters)"),
            (
                MEMORY,
                "            if not self._is_ours(delivery):\n                raise Conflict",
                "            if False:\n                raise Conflict",
            ),
        ),
    ),
    bug(
        "state and outgoing messages in two transactions",
        TURN,
        IMPORT,
        (COMMIT, AFTERWARDS.format(late="changes.parcels", now="[]")),
    ),
    bug(
        "messages sent before the commit",
        TURN,
        IMPORT,
        (COMMIT, AT_ONCE.format(first="Changes(parcels=changes.parcels)", clear="changes.parcels = []")),
    ),
    bug(
        "failure event outside of the transaction",
        TURN,
        IMPORT,
        (
            COMMIT,
            AFTERWARDS.format(
                late="[p for p in changes.parcels if b'failed:' in p.packet]",
                now="[p for p in changes.parcels if b'failed:' not in p.packet]",
            ),
        ),
    ),
    bug("refused turn dropped instead of repeated", TURN, ("            continue\n", "            return []\n")),
    bug(
        "one bad message fails its whole batch",
        TURN,
        (
            "            for letter in mine:\n",
            "            for letter in mine if all(m.error is None for m in mine) else [_spoilt(m) for m in mine]:\n",
        ),
        (
            "def _as_claimed(",
            "def _spoilt(letter: Letter) -> Letter:\n    letter.error = letter.error or RuntimeError()\n"
            "    return letter\n\n\ndef _as_claimed(",
        ),
    ),
    bug(
        "version of an instance not checked",
        MEMORY,
        ("if (row.version if row else 0) != saved.version:", "if False:"),
    ),
    bug(
        "claim ignored by others",
        MEMORY,
        ("return self.claimed_until is not None and self.claimed_until > now", "return False"),
    ),
    bug(
        "claim never ends",
        MEMORY,
        ("return self.claimed_until is not None and self.claimed_until > now", "return self.claimed_until is not None"),
    ),
    bug(
        "old claim taken for a new one",
        MEMORY,
        ("return row is not None and row.count == delivery.count", "return row is not None"),
    ),
    bug("date of a message ignored", MEMORY, ("if parcel.due is not None and parcel.due > now:", "if False:")),
    bug("dated message delivered, and kept", MEMORY, ("store.dated[min(due, limit) : due]", "store.dated[:due]")),
    bug(
        "stashed message never released",
        MEMORY,
        ("        if row is None:\n            for stash", "        if False:\n            for stash"),
    ),
    bug(
        "repeated id of a caller sent again",
        MEMORY,
        (
            "                    continue\n                store.sent_ids",
            "                    pass\n                store.sent_ids",
        ),
    ),
    bug(
        "nobody is woken by a commit",
        MEMORY,
        ("        store.entries += changes.history\n        store.wake()", "        store.entries += changes.history"),
    ),
    bug(
        "early message dropped instead of stashed",
        BATCH,
        ("changes.stashed.append(Stash(address, kept, self.now + plan.stash))", "pass"),
    ),
    bug(
        "message stashed in the batch that starts its instance",
        BATCH,
        ("        if self.changes.stashed:\n            self._unstash()\n", ""),
    ),
    bug(
        "dead letter without its bytes",
        BATCH,
        (
            "                packet=packet,\n                reason=reason,",
            "                packet=b'{}',\n                reason=reason,",
        ),
    ),
    bug(
        "retry under a new id",
        POST,
        (
            "replace(envelope, attempt=envelope.attempt + 1)",
            "replace(envelope, attempt=envelope.attempt + 1, id=envelope.id + 'x')",
        ),
    ),
    bug("attempt not counted", POST, ("replace(envelope, attempt=envelope.attempt + 1)", "replace(envelope)")),
    bug(
        "conversation lost on the way",
        POST,
        (
            "        type=name,\n        conversation=cause.conversation,",
            "        type=name,\n        conversation=id,",
        ),
    ),
    bug(
        "workflow not told of a failure",
        FAILURE,
        ("    if origin is None and command.reply_to is None:", "    if True:"),
    ),
    bug("completed instance goes on", INSTANCE, ("        if self.done:\n", "        if False:\n")),
    bug("second start handled again", INSTANCE, ("if envelope.type in record.started_by:", "if False:")),
    Bug(
        "cancelled timer neither withdrawn nor recognised",
        (
            (MEMORY, "        if gone:\n", "        if False:\n"),
            (INSTANCE, "if timer is None or timer.id != token:", "if False:"),
            (INSTANCE, "del record.timers[envelope.timer[0]]", "record.timers.pop(envelope.timer[0], None)"),
        ),
    ),
    bug(
        "result of a handler lost when the engine fails",
        STATION,
        ("            self._finished = taken.finished + self._finished", "            pass"),
    ),
    bug(
        "own message taken again after standing still",
        STATION,
        ("        self._finished += self.flight.take_finished()\n        elsewhere", "        elsewhere"),
        (
            "        limit = self._limit()\n",
            "        self._finished += self.flight.take_finished()\n        limit = self._limit()\n",
        ),
    ),
]

SQLITE_BUGS = [
    bug(
        "head moved past an unhandled message",
        QUEUES,
        ("[(self.number, id) for (id,) in rows if id not in taken]", "[]"),
    ),
    bug(
        "row of a claim kept when its message is handled",
        QUEUES,
        (
            'self._change("DELETE FROM outlast_open", (), [d for d in handled if int(d.receipt) <= head])',
            "pass",
        ),
    ),
    bug(
        "count of a claim not compared",
        QUEUES,
        ("0 if int(d.receipt) > head else None) == d.count}", "0 if int(d.receipt) > head else None) is not None}"),
        ("AND id BETWEEN ? AND ? AND count = ?", "AND id BETWEEN ? AND ? AND ? >= 0"),
    ),
    bug(
        "claim ignored by others",
        QUEUES,
        ("(o.claimed_until IS NULL OR o.claimed_until <= ?)", "(1 OR o.claimed_until <= ?)"),
    ),
    bug("claims of the dead not given back", ENGINE, ('queue.free(int(name.rpartition(".")[2]))', "pass")),
    bug(
        "dated message delivered, and kept",
        WORK,
        (
            '"DELETE FROM outlast_dated WHERE due = ? AND id = ?", [row[:2]',
            '"DELETE FROM outlast_dated WHERE due = ? AND id = ? AND 0", [row[:2]',
        ),
    ),
    bug("date of a message ignored", WORK, ("(due := micros(parcel.due)) > self.now", "(due := 0) > self.now")),
    bug("stashed message never released", WORK, ("            self._unstash(begun)\n", "            pass\n")),
    bug("repeated id of a caller sent again", WORK, ("return bool(self._all(", "return True or bool(self._all(")),
    bug("nobody is woken by a commit", WORK, ("        self._ring(self._rung)\n", "")),
    bug(
        "version of an instance not compared",
        WORK,
        ('"state = ? WHERE id = ? AND version = ?"', '"state = ? WHERE id = ? AND ? >= 0"'),
    ),
    bug(
        "commit in two transactions",
        WORK,
        ("    COMMIT,\n", "    BEGIN,\n    COMMIT,\n"),
        (
            "            self._write(changes)\n",
            "            self._write(Changes(handled=changes.handled))\n"
            "            self.connection.execute(COMMIT)\n            self.connection.execute(BEGIN)\n"
            "            self._write(msgspec.structs.replace(changes, handled=[]))\n",
        ),
    ),
    bug(
        "refused commit not rolled back",
        WORK,
        ("self.connection.execute(ROLLBACK)", "self.connection.execute(COMMIT)"),
    ),
]
"""Bugs in the real SQLite engine."""

BROKER_BUGS = [
    bug(
        "message acknowledged before the commit",
        BROKER,
        (
            "        await (await self.begin()).commit(self.engine.for_store(self.service, changes))\n",
            "        await self.engine.acknowledge(self.service, changes.handled)\n"
            "        await (await self.begin()).commit(self.engine.for_store(self.service, changes))\n",
        ),
    ),
    bug(
        "outbox row deleted before the broker confirms",
        POSTMAN,
        ("settled, self._settled = self._settled, []", "settled, self._settled = [*self._settled, *rows], []"),
        ("            self._settled += rows\n", "            pass\n"),
    ),
    bug(
        "failed publication taken for a success",
        POSTMAN,
        (
            "            if len(rows) > 1 and self.transport.can_publish:\n"
            "                await self._publish_each(rows)\n",
            "            if True:\n                self._settled += rows\n",
        ),
    ),
    bug(
        "message sent without a row in the outbox",
        MEMORY,
        (
            "            self.posted(Delivery(receipt, packet, 1))\n",
            "            self.posted(Delivery(receipt, packet, 1))\n            del store.queues[OUTBOX][receipt]\n",
        ),
    ),
    bug(
        "what others left in the outbox never taken",
        POSTMAN,
        ("        found = await self._take()\n", "        found: list[Delivery] = []\n"),
    ),
    bug(
        "outbox row taken without claiming it",
        POSTMAN,
        (
            "await work.commit(Changes(claimed=ours, claimed_until=self.world.now() + OUTBOX_LEASE))",
            "await work.rollback()",
        ),
    ),
    bug(
        "inbox not written",
        MEMORY,
        ("            store.inbox[self.service, str(delivery.receipt)] = now\n", ""),
    ),
    bug(
        "inbox not asked",
        MEMORY,
        ("return (self.service, delivery.receipt) not in self.engine.store.inbox", "return True"),
    ),
    bug("copy of a handled message not acknowledged", TURN, ("[*changes.handled, *stale]", "changes.handled")),
    bug(
        "retry under the id of its first attempt",
        POST,
        (
            "return Parcel(id, encode(again), queue=queue, due=due)",
            "return Parcel(envelope.id, encode(again), queue=queue, due=due)",
        ),
    ),
    bug(
        "broker not told what is still being handled",
        BROKER,
        ("            if renewed and", "            if False and"),
    ),
    bug(
        "copy that arrives while a message is handled not remembered",
        TRAY,
        (
            "            self._tags.setdefault(arrival.id, []).append(arrival.tag)\n",
            "            self._tags.setdefault(arrival.id, [arrival.tag])\n",
        ),
    ),
    bug(
        "process that lost its connection never consumes again",
        TRAY,
        (
            "            if arrival.id not in self._claimed:\n",
            "            if arrival.id not in self._claimed and arrival.count == 0:\n",
        ),
    ),
]
"""Bugs in the engine of a broker and a store."""
