"""An event loop in virtual time: it never waits, has no threads and no sockets, and one seed decides who goes first.

When nothing can go on it jumps to the next date. Callbacks belong to a simulated process (the one in whose
context they were made), so that a process can be stopped in mid-air: what is dead is never called again, not
even to clean up, which is what a power cut does.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, TypeVarTuple, Unpack

from outlast.errors import Misuse, OutlastError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STEPS_PER_INSTANT = 500_000
"""So many callbacks without any time passing are an endless loop."""


class Stuck(OutlastError):
    """The simulated world stands still, or runs on without time passing."""


class Owner(Protocol):
    """The simulated process that a callback belongs to."""

    name: str
    is_dead: bool
    is_paused: bool
    held: list[tuple[asyncio.Handle, Any]]
    """What it has to do as soon as it goes on."""


OWNER: ContextVar[Owner | None] = ContextVar("outlast_simulated_process", default=None)


# To type checkers an abstract loop must have every method; what this one has not, it must not be asked for.
if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop
else:
    _Loop = asyncio.AbstractEventLoop


class VirtualLoop(_Loop):
    """Runs callbacks in order, and jumps to the next date when there are none.

    `choose` says whose of the effects that could happen now happens first. `stalled()` is asked whenever
    nothing can go on at the present time; true means that there is nothing left to do.
    """

    def __init__(self, choose: Callable[[Sequence[Owner | None]], int], stalled: Callable[[], bool]) -> None:
        self._now = 0.0
        self._choose = choose
        self._stalled = stalled
        self._ready: deque[tuple[asyncio.Handle, Owner | None]] = deque()
        self._dated: list[tuple[float, int, asyncio.TimerHandle, Owner | None]] = []
        self._standing: list[tuple[asyncio.Future[None], Owner | None]] = []
        self._count = 0
        self._steps = 0
        self._is_running = False
        self._is_closed = False
        self.tasks: list[asyncio.Task[Any]] = []
        """Every task that was made: a dead process's tasks must not be tidied up by the garbage collector."""
        self.halted = ""
        """If set, why the loop is to stop at once."""
        self.complaints: list[str] = []
        """What callbacks and tasks nobody waits for have raised."""

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    async def stand(self) -> None:
        """Waits at an effect until it is chosen to happen next; everything else that can go on does so first."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        self._standing.append((future, OWNER.get()))
        await future

    def run_until_quiet(self, until: float | None = None) -> bool:
        """Runs until `stalled()` says that all is done (true), or until the given time (false)."""
        return self._run(lambda: False, until)

    def run_until_complete(self, future: Any) -> Any:
        """Runs until this one coroutine is done, and returns what it returned."""
        task = asyncio.ensure_future(future, loop=self)
        self._run(task.done, None)
        if not task.done():
            raise Stuck("what the scenario waited for cannot come any more: nothing is left to do.")
        return task.result()

    def resume(self, owner: Owner) -> None:
        """Lets a paused process go on where it stood."""
        self._ready.extend(owner.held)
        owner.held.clear()

    def _run(self, is_done: Callable[[], bool], until: float | None) -> bool:
        before = events._get_running_loop()  # pyright: ignore[reportPrivateUsage]
        events._set_running_loop(self)  # pyright: ignore[reportPrivateUsage]
        self._is_running = True
        try:
            while not is_done():
                self._run_ready()
                if self.halted:
                    raise Stuck(self.halted)
                if is_done() or self._begin_effect():
                    continue
                if self._stalled():
                    return True
                if not self._jump(until):
                    return False
            return False
        finally:
            self._is_running = False
            events._set_running_loop(before)  # pyright: ignore[reportPrivateUsage]

    def _run_ready(self) -> None:
        ready = self._ready
        while ready:
            handle, owner = ready.popleft()
            if handle.cancelled():
                continue
            if owner is not None:
                if owner.is_dead:
                    continue
                if owner.is_paused:
                    owner.held.append((handle, owner))
                    continue
            handle._run()  # pyright: ignore[reportPrivateUsage]
            self._steps += 1
            if self._steps > STEPS_PER_INSTANT:
                raise Stuck(f"{self._steps} steps were made and no time has passed: something runs hot.")

    def _begin_effect(self) -> bool:
        if not self._standing:
            return False
        standing = [(f, o) for f, o in self._standing if not f.done() and (o is None or not o.is_dead)]
        self._standing = standing
        able = [entry for entry in standing if entry[1] is None or not entry[1].is_paused]
        if not able:
            return False
        chosen = able[self._choose([owner for _, owner in able]) if len(able) > 1 else 0]
        standing.remove(chosen)
        chosen[0].set_result(None)
        return True

    def _jump(self, until: float | None) -> bool:
        dated = self._dated
        while dated and (dated[0][2].cancelled() or ((owner := dated[0][3]) is not None and owner.is_dead)):
            heapq.heappop(dated)
        if not dated:
            if until is None:
                raise Stuck("nothing can go on, nothing is dated, and yet there is work left: a deadlock.")
            self._now = max(self._now, until)
            return False
        if until is not None and dated[0][0] > until:
            self._now = max(self._now, until)
            return False
        self._now = max(self._now, dated[0][0])
        self._steps = 0
        while dated and dated[0][0] <= self._now:
            _, _, handle, owner = heapq.heappop(dated)
            self._ready.append((handle, owner))
        return True

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = copy_context() if context is None else context  # an empty one is false
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append((handle, context.get(OWNER)))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        context = copy_context() if context is None else context  # an empty one is false
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._dated, (when, self._count, handle, context.get(OWNER)))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=str(name or "simulated"), context=context)
        self.tasks.append(task)
        if len(self.tasks) % 512 == 0:
            self.tasks = [task for task in self.tasks if not task.done()]
        return task

    def is_running(self) -> bool:
        return self._is_running

    def is_closed(self) -> bool:
        return self._is_closed

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._is_closed:
            error = context.get("exception")
            self.complaints.append(f"{context.get('message')}: {type(error).__name__}: {error}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def close(self) -> None:
        """Lets go of everything that has not ended, without running any of it."""
        self._is_closed = True
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                try:
                    task.get_coro().close()
                except (Exception, asyncio.CancelledError):  # what user code does in `finally` counts no more
                    continue
        self.tasks.clear()
        self._ready.clear()
        self._dated.clear()
        self._standing.clear()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Called by `TimerHandle.cancel`; a cancelled date is passed over when it comes up."""

    def _refuse(self, what: str) -> NoReturn:
        raise Misuse(
            f"simulated code asked for {what}. A simulated world has none, because it could not be repeated. "
            "Give the handler a fake of what it talks to: sim.override(Gateway, FakeGateway())."
        )

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> Any:
        self._refuse("a thread (run_in_executor, to_thread)")

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> Any:
        self._refuse("a call from another thread")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("a network address")

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("a socket")

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("a listening socket")

    async def create_datagram_endpoint(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("a datagram socket")

    async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("a socket")

    async def sock_connect(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("a socket")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("another program")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("another program")

    def add_reader(self, fd: Any, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> Any:
        self._refuse("a file descriptor to be watched")

    def add_writer(self, fd: Any, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> Any:
        self._refuse("a file descriptor to be watched")

    def add_signal_handler(self, sig: int, callback: Callable[[Unpack[Ts]], object], *args: *Ts) -> Any:
        self._refuse("a signal of the operating system")
