"""TR: what is sent arrives as it was sent, at its receiver and nowhere else."""

import asyncio
import os
import resource
import sqlite3
import sys
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import Popen

import msgspec
import pytest

from outlast import NO_RETRY, Client, Command, Context, Event, Retry, Service, Worker
from outlast.core.message import Envelope, Origin
from outlast.core.naming import encode, open_packet
from outlast.engines import inspector_of, open_engine
from outlast.errors import Misuse, Unroutable
from outlast.ports import Changes, Parcel
from outlast.signals import Retrying
from tests.system import AT_ONCE, eventually, running, until


class Cargo(Command[None], to="depot"):
    body: bytes = b""
    text: str = ""
    number: int = 0


class Arrived(Event):
    number: int


class Left(Event):
    number: int


async def test_a_handler_sees_the_id_headers_and_body_that_were_sent(url: str) -> None:
    """TR-01: id, headers and bytes arrive as they were."""
    depot = Service("depot")
    seen: list[tuple[str, dict[str, str], bytes]] = []

    @depot.handles
    async def store(command: Cargo, context: Context) -> None:
        seen.append((context.message_id, dict(context.headers), command.body))

    async with running(url, depot) as system:
        client = Client(engine=system.engine, world=system.worker.world, headers={"k": "v"})
        async with client:
            sent = await client.send(Cargo(body=b"\x01\x02\x03"))
        await system.quiet()

    assert seen == [(sent.id, {"k": "v"}, b"\x01\x02\x03")]


async def test_a_hundred_messages_of_one_call_keep_their_contents_apart(url: str) -> None:
    """TR-02: each payload belongs to its own id."""
    depot = Service("depot")
    seen: dict[str, int] = {}

    @depot.handles
    async def store(command: Cargo, context: Context) -> None:
        seen[context.message_id] = command.number

    async with running(url, depot) as system:
        sent = await system.client.send_all(*[Cargo(number=number) for number in range(100)])
        await system.quiet()

    assert seen == {one.id: number for number, one in enumerate(sent)}


@pytest.mark.parametrize("body", [b"", bytes(range(256)), os.urandom(1 << 20)], ids=["empty", "every byte", "one MiB"])
async def test_a_body_is_the_same_at_the_handler_at_the_retry_and_as_a_dead_letter(url: str, body: bytes) -> None:
    """TR-03: bytes survive delivery, retry and setting aside."""
    depot = Service("depot", retry=AT_ONCE)
    seen: list[bytes] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        seen.append(command.body)
        raise ValueError("not today")

    async with running(url, depot) as system:
        await system.client.send(Cargo(body=body))
        await system.quiet()
        [dead] = await system.dead()

    assert seen == [body] * 3
    assert depot.routes.catalogue.decode(open_packet(dead.packet)) == Cargo(body=body)


async def test_headers_and_text_in_any_script_arrive_unchanged(url: str) -> None:
    """TR-04: accents, Greek, mathematics, hearts and astral planes; OB-08: quotes and newlines too."""
    odd = {"é": "ñandú", "αβγ": "∑∫√", "♥": "\U0001f600\U00010348", "quote\"'": "line\nbreak\ttab\\"}
    depot = Service("depot")
    second = Service("second")
    seen: list[dict[str, str]] = []
    texts: list[str] = []

    @depot.handles
    async def store(command: Cargo, context: Context) -> Arrived:
        texts.append(command.text)
        seen.append(dict(context.headers))
        return Arrived(number=1)

    @second.handles
    async def hear(event: Arrived, context: Context) -> None:
        seen.append(dict(context.headers))

    async with running(url, depot, second) as system:
        async with Client(engine=system.engine, world=system.worker.world, headers=odd) as client:
            await client.send(Cargo(text="".join(odd)))
        await system.quiet()

    assert seen == [odd, odd]
    assert texts == ["".join(odd)]


async def test_a_waiting_worker_costs_next_to_nothing_and_wakes_at_once(sqlite_url: str) -> None:
    """TR-06: idle below two percent of a core; the next message is picked up without a poll."""
    depot = Service("depot")
    done = asyncio.Event()

    @depot.handles
    async def store(command: Cargo) -> None:
        done.set()

    async with Worker([depot], url=sqlite_url), Client(sqlite_url) as client:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1)

        before = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        await asyncio.sleep(1.0)
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - before

        delays = []
        for _ in range(5):
            done.clear()
            await asyncio.sleep(0.02)
            began = loop.time()
            await client.send(Cargo())
            await done.wait()
            delays.append(loop.time() - began)

    assert used < 0.02
    assert sorted(delays)[2] < 0.1, "slower than the poll of 0.25 s would explain"


async def test_what_a_failing_handler_would_have_sent_is_never_seen(url: str) -> None:
    """TR-07, TR-09: five messages to three services vanish with the attempt that made them."""
    depot = Service("depot", retry=AT_ONCE)
    others = [Service(name) for name in ("one", "two", "three")]
    seen: list[int] = []

    @depot.handles
    async def store(command: Cargo) -> list[Arrived | Left]:
        made = [Arrived(number=1), Left(number=2), Arrived(number=3), Left(number=4), Arrived(number=5)]
        if command.number == 0:
            raise ValueError("after making them")
        return made

    for other in others:

        @other.handles
        async def hear(event: Arrived | Left) -> None:
            seen.append(event.number)

    async with running(url, depot, *others) as system:
        await system.client.send(Cargo(number=0))
        await system.quiet()
        assert seen == []
        await system.client.send(Cargo(number=1))
        await system.quiet()

    assert Counter(seen) == {1: 3, 2: 3, 3: 3, 4: 3, 5: 3}


async def test_a_delivery_whose_turn_never_ended_is_delivered_again(url: str) -> None:
    """TR-10: received and not committed, the message is still there."""
    engine, world = open_engine(url)
    await engine.declare("depot", [])
    async with Client(engine=engine, world=world) as client:
        await client.send(Cargo(number=7))

    [first] = await engine.receive("depot", 10)
    work = await engine.begin("depot")
    assert await work.first_sight([first]) == {first.receipt}
    await work.rollback()
    [second] = await engine.receive("depot", 10)
    await engine.close()

    assert second == first


async def test_attempts_are_numbered_from_one_and_see_the_original_headers(url: str) -> None:
    """TR-11, TR-12: attempt numbers are 1, 2, 3, and no attempt can spoil the headers of the next."""
    depot = Service("depot", retry=AT_ONCE)
    seen: list[tuple[int, dict[str, str]]] = []

    @depot.handles
    async def store(command: Cargo, context: Context) -> None:
        seen.append((context.attempt, dict(context.headers)))
        context.headers["h"] = "spoilt"  # type: ignore[index]
        raise ValueError("again")

    async with running(url, depot) as system:
        async with Client(engine=system.engine, world=system.worker.world, headers={"h": "kept"}) as client:
            await client.send(Cargo())
        await system.quiet()
        [dead] = await system.dead()
        retried = [signal.attempt for signal in system.signals if isinstance(signal, Retrying)]

    assert seen == [(1, {"h": "kept"}), (2, {"h": "kept"}), (3, {"h": "kept"})]
    assert retried == [1, 2]
    assert open_packet(dead.packet).headers == {"h": "kept"}


async def test_no_more_handlers_run_at_once_than_allowed(url: str) -> None:
    """TR-17: with a limit of ten, exactly ten of twenty are in flight."""
    depot = Service("depot")
    gate = asyncio.Event()
    running_now = most = done = 0

    @depot.handles
    async def store(command: Cargo) -> None:
        nonlocal running_now, most, done
        running_now += 1
        most = max(most, running_now)
        await gate.wait()
        running_now -= 1
        done += 1

    async with running(url, depot, concurrency=10) as system:
        await system.client.send_all(*[Cargo(number=number) for number in range(20)])
        await until(lambda: running_now == 10)
        await asyncio.sleep(0.05)
        assert running_now == 10
        gate.set()
        await system.quiet()

    assert (most, done) == (10, 20)


async def test_a_service_that_stops_and_starts_again_misses_nothing(url: str) -> None:
    """TR-20, TR-23: fifty times closed and reopened, every message is handled, and one listens at the end."""
    depot = Service("depot")
    seen: list[int] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        seen.append(command.number)

    engine, world = open_engine(url)
    async with Client(engine=engine, world=world) as client:
        for round in range(50):
            await client.send(Cargo(number=round))
            async with running(url, depot) as system:
                await client.send(Cargo(number=1000 + round))
                await system.quiet()
        async with running(url, depot) as system:
            [queue] = await inspector_of(system.engine).queues()
    await engine.close()

    assert sorted(seen) == [*range(50), *range(1000, 1050)]
    assert queue.workers == 1


async def test_stop_may_be_called_twice_and_at_once(url: str) -> None:
    """TR-21: the second call returns when the first is done."""
    depot = Service("depot")
    gate = asyncio.Event()
    ended: list[str] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        await gate.wait()
        ended.append("handler")

    async def stopping(worker: Worker) -> None:
        await worker.stop()
        ended.append("stop")

    async with running(url, depot) as system:
        await system.client.send(Cargo())
        await until(lambda: system.worker.stations[0].flight.flying)
        stops = [asyncio.create_task(stopping(system.worker)) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert ended == []
        gate.set()
        await asyncio.gather(*stops)
        await system.worker.stop()

    assert ended == ["handler", "stop", "stop", "stop"]


COMPETITOR = """
import asyncio, os, sys
from tests.catalogue.test_transport import Cargo
from outlast import Context, Service, Worker, run

depot = Service("depot")
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@depot.handles
async def store(command: Cargo) -> None:
    os.write(log, f"{command.number} {os.getpid()}\\n".encode())

asyncio.run(run(Worker([depot], url=sys.argv[1], batch=50)))
"""


async def test_processes_that_compete_share_the_messages_and_double_none(sqlite_url: str, tmp_path: Path) -> None:
    """TR-24, DB-16: five thousand messages, four processes of one service, five thousand distinct numbers."""
    log = tmp_path / "log"
    engine, world = open_engine(sqlite_url)
    processes = [Popen([sys.executable, "-c", COMPETITOR, sqlite_url, str(log)]) for _ in range(4)]
    try:

        async def are_ready() -> bool:
            return [queue.workers for queue in await inspector_of(engine).queues()] == [4]

        await eventually(are_ready, within=20)
        async with Client(engine=engine, world=world) as client:
            for start in range(0, 5000, 100):
                await client.send_all(*[Cargo(number=number) for number in range(start, start + 100)])

        async def is_empty() -> bool:
            [queue] = await inspector_of(engine).queues()
            await asyncio.sleep(0.05)
            return not queue.waiting and not queue.claimed

        await eventually(is_empty, within=30)
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(10) for process in processes]
        await engine.close()

    assert codes == [0] * 4
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(number) for number, _ in lines) == list(range(5000))
    assert len({process for _, process in lines}) > 1


async def test_topics_do_not_mix(url: str) -> None:
    """TR-25: each of twenty services gets exactly the hundred messages of its own topic."""
    kinds = [type(f"Topic{n}", (Event,), {"__annotations__": {"number": int}}) for n in range(20)]
    seen: dict[str, list[int]] = {kind.__name__: [] for kind in kinds}
    services = []
    for kind in kinds:
        service = Service(f"listener-{kind.__name__}")

        @service.handles
        async def hear(event: kind) -> None:  # type: ignore[valid-type]
            seen[type(event).__name__].append(event.number)

        services.append(service)

    async with running(url, *services) as system:
        for number in range(100):
            await system.client.send_all(*[kind(number=number) for kind in kinds])  # type: ignore[call-arg]
        await system.quiet()

    assert all(sorted(numbers) == list(range(100)) for numbers in seen.values())


async def test_a_healthy_worker_takes_over_what_others_failed_at(url: str) -> None:
    """TR-26: after many failed attempts elsewhere, every message is still there to be handled."""
    stubborn = Retry(immediate=100)
    depot = Service("depot", retry=stubborn)
    failures = 0
    seen: list[int] = []
    healthy = False

    @depot.handles
    async def store(command: Cargo) -> None:
        nonlocal failures
        if not healthy and failures < 300:
            failures += 1
            raise ValueError("ill")
        seen.append(command.number)

    async with running(url, depot) as system:
        await system.client.send_all(*[Cargo(number=number) for number in range(50)])
        await until(lambda: failures >= 100)
        healthy = True
        await system.quiet()

    assert sorted(seen) == list(range(50))


async def test_what_was_sent_is_there_though_the_sender_left_at_once(url: str) -> None:
    """TR-31: every call that returned counts, also when the client closes right after."""
    depot = Service("depot")
    seen: list[int] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        seen.append(command.number)

    keeper, world = open_engine(url)
    await keeper.declare("depot", [])
    returned: list[int] = []

    async def sender(client: Client, start: int) -> None:
        for number in range(start, start + 25):
            await client.send(Cargo(number=number))
            returned.append(number)

    client = Client(engine=keeper, world=world) if url.startswith("memory") else Client(url)
    async with client:
        await asyncio.gather(*[sender(client, 25 * n) for n in range(20)])
    async with running(url, depot) as system:
        await system.quiet()
    await keeper.close()

    assert sorted(seen) == sorted(returned) == list(range(500))


async def test_depth_is_told_while_handlers_are_busy(url: str) -> None:
    """TR-34: looking at the queue does not wait for what is running."""
    depot = Service("depot")
    gate = asyncio.Event()

    @depot.handles
    async def store(command: Cargo) -> None:
        await gate.wait()

    async with running(url, depot, concurrency=2) as system:
        await system.client.send_all(*[Cargo(number=number) for number in range(5)])
        await until(lambda: len(system.worker.stations[0].flight.flying) == 2)
        began = asyncio.get_running_loop().time()
        [queue] = await inspector_of(system.engine).queues()
        took = asyncio.get_running_loop().time() - began
        gate.set()
        await system.quiet()

    assert (queue.claimed, queue.waiting) == (2, 3)
    assert took < 0.5


FOREIGN = {
    "no id": {"type": "cargo", "conversation": "c", "sent_at": "2026-01-01T00:00:00Z", "body": {}},
    "empty object": {},
    "null": None,
    "headers null": {
        "id": "x",
        "type": "cargo",
        "conversation": "c",
        "sent_at": "2026-01-01T00:00:00Z",
        "body": {},
    }
    | {"headers": None},
    "attempt is text": {"id": "x", "type": "cargo", "conversation": "c", "sent_at": "2026-01-01T00:00:00Z"}
    | {"body": {}, "attempt": "many"},
}


@pytest.mark.parametrize("packet", FOREIGN.values(), ids=FOREIGN)
async def test_a_foreign_packet_is_set_aside_and_the_next_is_handled(url: str, packet: object) -> None:
    """TR-35: without an id or headers that can be read it becomes a dead letter, at once."""
    depot = Service("depot")
    seen: list[int] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        seen.append(command.number)

    async with running(url, depot) as system:
        work = await system.engine.begin("")
        await work.commit(Changes(parcels=[Parcel("x", encode(packet), queue="depot")]))
        await system.client.send(Cargo(number=1))
        await system.quiet()
        [dead] = await system.dead()

    assert seen == [1]
    assert dead.packet == encode(packet)


@pytest.mark.parametrize("value", ["zeroblob(0)", "x'ff00ff'", "x'6e756c6c'", "zeroblob(100000)"])
async def test_a_row_written_into_the_queue_by_hand_is_set_aside(sqlite_url: str, value: str) -> None:
    """TR-35, PO-05: whatever bytes are in it, that row becomes a dead letter and the queue keeps flowing."""
    depot = Service("depot")
    seen: list[int] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        seen.append(command.number)

    async with running(sqlite_url, depot) as system:
        system.execute(f"INSERT INTO {system.log('depot')} (packet) VALUES ({value})")
        await system.client.send(Cargo(number=1))
        await system.quiet()
        dead = await system.dead()

    assert seen == [1]
    assert len(dead) == 1


@pytest.mark.parametrize("value", ["5", "'text'", "CAST(x'ff00ff' AS TEXT)", "1.5", "NULL"])
async def test_what_is_no_bytes_cannot_be_written_into_a_queue(sqlite_url: str, value: str) -> None:
    """TR-35: a row that could not even be read is refused by the file itself."""
    async with running(sqlite_url, Service("depot")) as system:
        for row in (f"{system.log('depot')} (packet) VALUES (", "outlast_dated VALUES (1, 'id', 'depot', '', "):
            with pytest.raises(sqlite3.IntegrityError):
                system.execute(f"INSERT INTO {row}{value})")


async def test_two_systems_in_one_process_do_not_meet(url: str, tmp_path: Path) -> None:
    """TR-36: traffic does not cross, and stopping one leaves the other at work."""
    other_url = f"sqlite:///{tmp_path}/other.db"
    seen: dict[str, list[int]] = {"here": [], "there": []}

    def depot(name: str) -> Service:
        service = Service("depot")

        @service.handles
        async def store(command: Cargo) -> None:
            seen[name].append(command.number)

        return service

    async with running(other_url, depot("there")) as there:
        async with running(url, depot("here")) as here:
            await here.client.send(Cargo(number=1))
            await there.client.send(Cargo(number=2))
            await here.quiet()
            await there.quiet()
        await there.client.send(Cargo(number=3))
        await there.quiet()

    assert seen == {"here": [1], "there": [2, 3]}


async def test_a_client_receives_nothing_and_says_who_should(url: str) -> None:
    """TR-32, PS-07: sending an event, publishing a command or sending to nobody is refused at the call."""

    class Homeless(Command[None]):
        number: int = 0

    engine, world = open_engine(url)
    async with Client(engine=engine, world=world) as client:
        with pytest.raises(Unroutable, match="event is published"):
            await client.send(Arrived(number=1))  # type: ignore[arg-type]
        with pytest.raises(Unroutable, match="sent to its owner"):
            await client.publish(Cargo())  # type: ignore[arg-type]
        with pytest.raises(Unroutable, match="to='the-service'"):
            await client.send(Homeless())
    await engine.close()

    with pytest.raises(Misuse, match="not open"):
        _ = Client(url).engine


async def test_an_unheard_event_is_no_error(url: str) -> None:
    """TR-32, PS-15: nobody listens, and publishing succeeds."""
    async with running(url, Service("depot")) as system:
        await system.client.publish(Arrived(number=1))
        await system.quiet()
        assert await system.dead() == []


async def test_a_packet_that_came_twice_from_one_call_is_sent_once(url: str) -> None:
    """OB-05: the same id given twice is one message."""
    depot = Service("depot", retry=NO_RETRY)
    seen: list[int] = []

    @depot.handles
    async def store(command: Cargo) -> None:
        seen.append(command.number)

    async with running(url, depot) as system:
        id = str(uuid.uuid4())
        await system.client.send(Cargo(number=1), id=id)
        await system.client.send(Cargo(number=1), id=id)
        await system.client.send(Cargo(number=1), id=id, after=timedelta(milliseconds=10))
        await system.client.send(Cargo(number=2))
        await system.quiet()
        await system.client.send(Cargo(number=1), id=id)
        await system.quiet()

    assert sorted(seen) == [1, 2]


def test_an_envelope_reads_back_as_it_was_written() -> None:
    """TR-01, OB-01: every field survives the packet."""
    full = Envelope(
        id="i",
        type="cargo@2",
        conversation="c",
        sent_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        body=msgspec.Raw(b'{"number":1}'),
        sender="s",
        cause="p",
        attempt=3,
        origin=Origin("s", "w", "k"),
        answers=Origin("t", "x", "l"),
        reply_to="r",
        tells_failure=True,
        timer=("name", "token"),
        headers={"a": "b"},
    )

    again = open_packet(encode(full))

    assert all(getattr(again, name) == getattr(full, name) for name in Envelope.__struct_fields__ if name != "body")
    assert bytes(again.body) == bytes(full.body)
