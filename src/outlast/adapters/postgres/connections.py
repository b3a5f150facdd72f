"""Connections to the server: how one is opened, lent to a handler, kept for the next, and given up.

Not asyncpg's own pool: its proxies are no `asyncpg.Connection`, which handlers may ask for, and it resets a
connection with a statement of its own each time. Here one that is in doubt is closed instead.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from weakref import WeakSet

from outlast.adapters.postgres.statements import refuse_ending
from outlast.adapters.postgres.trouble import explained
from outlast.errors import BadHandler, OutlastError, Unavailable

# The driver has no types, and what is inherited from it has none either.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
asyncpg: Any = importlib.import_module("asyncpg")

ANSWER_SECONDS = 10.0
"""How long a statement of ours may take. A server that is silent for longer is taken for gone."""
CONNECT_SECONDS = 10.0
PLACE_SECONDS = 10.0
"""How long a turn waits for a connection of its own process to be free."""
PAUSE_SECONDS_MAX = 0.5
TROUBLE_SECONDS = 2 * (CONNECT_SECONDS + PAUSE_SECONDS_MAX)
"""How long it tells of a failure: while the server is away, the next attempt fails before that."""

PLANS: Mapping[str, str] = {
    # Our statements have one good plan each, which statistics of tables that are empty or full cannot tell.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
OWN_PLANS = "; ".join(f"SET LOCAL {name} = {value}" for name, value in PLANS.items())
USERS_PLANS = "; ".join(f"SET LOCAL {name} = DEFAULT" for name in PLANS)

LIVENESS: Mapping[str, str] = {
    # The server lets go of what a machine had that went away without a word, and a process that was frozen.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "120000",
}


class OwnConnection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection as a handler may be given it: statements yes, ending the turn's transaction no."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_lent = False
        """A handler has it now."""
        self.is_silent = False
        """The server did not answer on it in time."""

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        self._check(query)
        return await super().execute(query, *args, **options)

    async def executemany(self, command: str, args: Any, **options: Any) -> Any:
        self._check(command)
        return await super().executemany(command, args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        self._check(query)
        return await super().fetch(query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        self._check(query)
        return await super().fetchval(query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        self._check(query)
        return await super().fetchrow(query, *args, **options)

    async def fetchmany(self, query: str, args: Any, **options: Any) -> Any:
        self._check(query)
        return await super().fetchmany(query, args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        self._check(query)
        return await super().prepare(query, **options)

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        self._check(query)
        return super().cursor(query, *args, **options)

    async def close(self, **options: Any) -> None:
        self._keep("close()")
        await super().close(**options)

    def terminate(self) -> None:
        self._keep("terminate()")
        super().terminate()

    async def reset(self, **options: Any) -> None:
        self._keep("reset()")
        await super().reset(**options)

    def _check(self, query: str) -> None:
        if self.is_lent:
            refuse_ending(query)

    def _keep(self, call: str) -> None:
        if self.is_lent:
            raise BadHandler(
                f"a handler called {call} on the turn's connection. It belongs to the worker; leave it as it is."
            )


def noted_in(opened: WeakSet[OwnConnection]) -> type[OwnConnection]:
    """Connections that are known from their first moment, so that none is left when its opening is cancelled."""

    class Noted(OwnConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.add(self)

    return Noted


class Server:
    """Where the database is, and how connections to it are opened: with pauses after failures, told by one error."""

    def __init__(self, dsn: str, where: str, *, synchronous_commit: str, dice: Callable[[], float]) -> None:
        self.where = where
        self._dsn = dsn
        self._settings = {**LIVENESS, "synchronous_commit": synchronous_commit}
        self._dice = dice
        self._pause = 0.0
        self._silent_until = 0.0
        self._troubled_until = 0.0
        self._successes = 0
        self._failure: Unavailable | None = None
        self._opened: WeakSet[OwnConnection] = WeakSet()
        self._kind = noted_in(self._opened)

    def end(self) -> None:
        """Closes every connection that is still open, whoever was about to use it."""
        for connection in list(self._opened):
            if not connection.is_closed():
                connection.is_lent = False
                connection.terminate()

    @property
    def trouble(self) -> str:
        """Why an attempt to connect failed a short while ago; empty when none did, or one has succeeded since."""
        if self._failure is not None and asyncio.get_running_loop().time() >= self._troubled_until:
            return ""  # whoever needed a connection has found one that was open
        return str(self._failure or "")

    async def connect(self, *, plans: bool, **settings: str) -> OwnConnection:
        """A new connection. After a failure the next attempts fail at once until a pause is over."""
        if self._failure is not None and asyncio.get_running_loop().time() < self._silent_until:
            raise Unavailable(str(self._failure))
        successes = self._successes
        connection: OwnConnection | None = None
        try:
            connection = await self._open(settings)
            if plans:
                await connection.execute("; ".join(f"SET {name} = {value}" for name, value in PLANS.items()))
        except BaseException as error:
            if connection is not None:
                connection.terminate()
            if not isinstance(error, Exception):
                raise
            raise self._failed(error, is_overtaken=self._successes != successes) from error
        self._successes += 1
        self._pause, self._failure = 0.0, None
        return connection

    async def _open(self, settings: Mapping[str, str]) -> OwnConnection:
        opening: asyncio.Task[OwnConnection] = asyncio.get_running_loop().create_task(
            asyncpg.connect(
                self._dsn,
                connection_class=self._kind,
                timeout=CONNECT_SECONDS,
                statement_cache_size=512,
                max_cached_statement_lifetime=0,
                server_settings={"application_name": "outlast", **self._settings, **settings},
            )
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Half a connection cannot be closed without a complaint of the driver, so it is let become a whole one.
            await asyncio.wait([opening], timeout=1)
            opening.cancel()
            for found in await asyncio.gather(opening, return_exceptions=True):
                if isinstance(found, OwnConnection):
                    found.terminate()
            raise

    def _failed(self, error: Exception, *, is_overtaken: bool) -> OutlastError:
        """What to raise; from now on there is a pause, longer after each failure.

        An attempt that another has overtaken with success says nothing of the present.
        """
        failure = explained(error, "connecting", where=self.where)
        if failure is None:
            failure = Unavailable(f"connecting to {self.where} failed: {error!r}. See whether the URL is right.")
        if not is_overtaken:
            now = asyncio.get_running_loop().time()
            self._pause = min(max(0.05, self._pause * 2), PAUSE_SECONDS_MAX)
            self._silent_until = now + self._pause * (0.5 + self._dice())
            self._troubled_until = now + TROUBLE_SECONDS
            self._failure = Unavailable(str(failure))
        return failure


class Places:
    """A bounded number of connections: whoever waits is given the next that is free."""

    def __init__(self, connect: Callable[[], Awaitable[OwnConnection]], size: int, *, where: str) -> None:
        self._connect = connect
        self._size = size
        self._where = where
        self._free = asyncio.Semaphore(size)
        self._taken = 0
        self._idle: list[OwnConnection] = []
        self._is_closed = False

    async def take(self) -> OwnConnection:
        """A connection that is in no transaction. Raises `Unavailable` when none is to be had in time."""
        await self._wait_for_place()
        self._taken += 1
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():
                    return connection
            return await self._connect()
        except BaseException:
            self._release()
            raise

    @property
    def has_plenty(self) -> bool:
        """Whether more than half of them are free."""
        return self._taken * 2 < self._size

    def _release(self) -> None:
        self._taken -= 1
        self._free.release()

    async def _wait_for_place(self) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(PLACE_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable(
                f"waiting {PLACE_SECONDS:.0f} s for a connection to {self._where} failed: all {self._size} are in use. "
                "Let transactions be short, or allow more with ?pool= in the URL."
            ) from error

    def give_back(self, connection: OwnConnection) -> None:
        """Keeps it for the next, if it is as new: one that is in a transaction, or may be, is closed."""
        connection.is_lent = False
        if self._is_closed or (not connection.is_closed() and connection.is_in_transaction()):
            connection.terminate()
        if not connection.is_closed():
            self._idle.append(connection)
        if connection.is_silent:
            # The others would be found to be so one by one.
            while self._idle:
                self._idle.pop().terminate()
        self._release()

    async def close(self) -> None:
        """Closes those that are idle; the others close when they are given back."""
        self._is_closed = True
        while self._idle:
            await closed(self._idle.pop())


async def closed(connection: OwnConnection) -> None:
    """Closes it in good order if the server answers, and in any case."""
    try:
        await connection.close(timeout=1)
    except Exception:  # whatever the server says to that, it is over
        connection.terminate()
