"""One system on its stage: its databases, its processes, and the conductor who brings the faults about."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import psycopg
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ
from servers.server import free_port

from lab import schedule
from lab.business import SERVICES
from lab.crew import Crew
from lab.schedule import GAP_SECONDS, Fault, Schedule
from lab.systems import SYSTEMS, System
from lab.way import Settings

KILL_SECONDS = 3.0
"""So long a kill in mid-call waits for a call."""
LOOK_SECONDS = 0.005
RECONNECT_SECONDS = 1.5
"""For so long after its return the database counts as away: its clients have to find it again."""

numbers = itertools.count(1)


class Servers:
    """The private servers, each started when the first system needs it, and kept for all."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._postgres: Postgres | None = None
        self._rabbitmq: RabbitMQ | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_for(self, names: Iterable[str]) -> None:
        """Starts what these systems need. Raises `NotInstalled` if something is missing."""
        systems = [SYSTEMS[name] for name in names]
        if any(system.has_database_server for system in systems):
            _ = self.postgres
        if any(system.engine == "rabbitmq" for system in systems):
            _ = self.rabbitmq

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            self._postgres = self._stack.enter_context(Postgres())
        return self._postgres

    @property
    def rabbitmq(self) -> RabbitMQ:
        if self._rabbitmq is None:
            self._rabbitmq = self._stack.enter_context(RabbitMQ())
        return self._rabbitmq


@dataclass
class Stage:
    """A system whose programs are up."""

    system: System
    settings: Settings
    crew: Crew
    database: Postgres | None
    away: set[str] = field(default_factory=set[str])
    """The services that the schedule has killed and that are not back yet."""
    fault: str = ""
    """What is wrong at the moment."""
    lasted: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Each fault that is over, and how many seconds it took until all was well again."""

    def weather(self) -> str:
        """What is wrong, for whoever wants to know later: a kind of fault, or who is away."""
        return f"away: {' '.join(sorted(self.away))}" if self.away else self.fault

    async def endure(self, plan: Schedule) -> None:
        """Brings all faults about, one after the other; one that is late delays the next."""
        began = monotonic()
        for fault in plan.faults:
            await asyncio.sleep(max(GAP_SECONDS, began + fault.at - monotonic()))
            await self._suffer(fault)

    async def _suffer(self, fault: Fault) -> None:
        self.fault, began = fault.kind, monotonic()
        try:
            match fault.kind:
                case schedule.AWAY:
                    await self._keep_away(fault)
                case schedule.KILLED:
                    await self._kill(fault)
                case schedule.DATABASE:
                    await self._restart_database(fault)
                case _:
                    await self._trouble(fault)
        finally:
            self.fault = ""
            self.lasted.append((fault.kind, round(monotonic() - began, 2)))

    async def _trouble(self, fault: Fault) -> None:
        files = [self.settings.directory / f"{service}.{fault.kind}" for service in fault.who]
        for file in files:
            file.touch()
        await asyncio.sleep(fault.seconds)
        for file in files:
            file.unlink()

    async def _keep_away(self, fault: Fault) -> None:
        self.away = set(fault.who)
        self.crew.kill({self.system.way.program_of(service) for service in fault.who})
        await asyncio.sleep(fault.seconds)
        self.crew.release()
        await self.crew.until_ready()
        self.away = set()

    async def _kill(self, fault: Fault) -> None:
        """Lets the next call kill its victim; if none comes in time, the victim is killed all the same."""
        [service] = fault.who
        program = self.system.way.program_of(service)
        order = self.settings.directory / f"{'payment' if service == 'ordering' else service}.kill"
        pid = self.crew.pid(program)
        order.with_suffix(".new").write_text(str(pid))
        order.with_suffix(".new").rename(order)  # so that nobody reads half of it
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                while order.exists():  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_SECONDS)
        self.away = {service}
        order.unlink(missing_ok=True)
        if self.crew.pid(program) == pid:
            self.crew.kill([program])
            self.crew.release()
        await self.crew.until_ready()
        self.away = set()

    async def _restart_database(self, fault: Fault) -> None:
        if self.database is None:
            await asyncio.sleep(fault.seconds)
            return
        await asyncio.to_thread(self.database.kill)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(self.database.start)
        await asyncio.sleep(RECONNECT_SECONDS)


@asynccontextmanager
async def set_stage(name: str, servers: Servers) -> AsyncGenerator[Stage]:
    """The system of this name with empty books, its programs up; none of them is left when it is taken down."""
    system = SYSTEMS[name]
    with tempfile.TemporaryDirectory(prefix="outlast-lab-") as temporary, ExitStack() as stack:
        settings = stack.enter_context(_settings(system, Path(temporary), servers))
        settings.save()
        async with Crew(name, system, settings) as crew:
            yield Stage(system, settings, crew, servers.postgres if system.has_database_server else None)


@contextmanager
def _settings(system: System, directory: Path, servers: Servers) -> Generator[Settings]:
    ports = {program: free_port() for program in system.way.programs}
    databases = sorted(set(system.way.databases.values()))
    if not system.has_database_server:
        urls = {database: f"sqlite:///{directory}/{database}.db" for database in databases}
        yield Settings(directory, ports, _books(system, urls), urls["ordering"])
        return
    with ExitStack() as stack:
        urls = {database: stack.enter_context(_database(servers.postgres, database)) for database in databases}
        _operate(servers.postgres, "CHECKPOINT")  # or a killed server would recover the new databases first
        engine = urls["ordering"] if system.engine else ""
        if system.engine == "rabbitmq":
            vhost = f"lab-{next(numbers)}"
            engine = f"{servers.rabbitmq.add_vhost(vhost)}?store={engine}"
            stack.callback(servers.rabbitmq.delete_vhost, vhost)
        yield Settings(directory, ports, _books(system, urls), engine)


def _books(system: System, urls: dict[str, str]) -> dict[str, str]:
    return {service: urls[system.way.databases[service]] for service in SERVICES}


@contextmanager
def _database(server: Postgres, name: str) -> Generator[str]:
    """An empty database, as long as the block runs."""
    name = f"{name}_{next(numbers)}"
    _operate(server, f"CREATE DATABASE {name}")
    try:
        yield server.url_of(name)
    finally:
        _operate(server, f"DROP DATABASE {name} WITH (FORCE)")


def _operate(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement.encode())
