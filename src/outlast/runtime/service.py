"""A service as its author writes it: a name, handlers, workflows, and what they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from outlast.core.message import Message
from outlast.core.plan import plan_of
from outlast.core.recovery import Retry
from outlast.core.routing import TIME_LIMIT_DEFAULT, Routes, handler_plan
from outlast.core.workflow import Workflow
from outlast.errors import BadHandler

MessageT = TypeVar("MessageT", bound=Message)
ReturnT = TypeVar("ReturnT")
NeedT = TypeVar("NeedT")
P = ParamSpec("P")
PreparationT = TypeVar("PreparationT", bound=Callable[..., Any])

Provider = Callable[[], Any | Awaitable[Any] | AbstractAsyncContextManager[Any]]


class Service:
    """One logical receiver of messages: a name with its handlers and workflows, in any number of processes.

    The name is the address that commands give in `to=` and the name of the queue; renaming a service leaves
    the old queue behind. `retry` holds for every handler and workflow that does not say otherwise.
    """

    def __init__(self, name: str, *, workflows: Sequence[type[Workflow]] = (), retry: Retry | None = None) -> None:
        if not name or len(name) > 63 or not all(c.isalnum() or c in "-_." for c in name) or not name.isascii():
            raise BadHandler(
                f"a service cannot be named {name!r}. Use up to 63 letters, digits, dots, dashes and underscores."
            )
        self.name = name
        self.retry = retry or Retry()
        self.routes = Routes(name)
        self.providers: dict[Any, Provider] = {}
        self.preparations: list[Callable[..., Any]] = []
        for workflow in workflows:
            self.routes.add_workflow(plan_of(workflow))

    @overload
    def handles(
        self, function: Callable[Concatenate[MessageT, P], ReturnT], /
    ) -> Callable[Concatenate[MessageT, P], ReturnT]: ...
    @overload
    def handles(
        self, /, *, retry: Retry | None = None, time_limit: timedelta = TIME_LIMIT_DEFAULT
    ) -> Callable[[Callable[Concatenate[MessageT, P], ReturnT]], Callable[Concatenate[MessageT, P], ReturnT]]: ...
    def handles(
        self,
        function: Any = None,
        /,
        *,
        retry: Retry | None = None,
        time_limit: timedelta = TIME_LIMIT_DEFAULT,
    ) -> Any:
        """Registers a handler; its first parameter is the message, what else it takes is injected by type.

        It may be `async def`, or `def` (which runs in a thread). What it returns is sent: one message, several
        in a tuple or a generator, or None. It may run more than once for one message, so what it does to the
        outside must bear repetition: give `Context.idempotency_key` to the other side.

        A handler that asks for `Transaction`, or for the driver's own connection class, runs inside the
        turn's transaction: its rows, its messages and the consumption of its message commit together. It
        must not wait for anything else meanwhile. After `time_limit` any other handler is cancelled, which
        counts as a failed attempt.
        """

        def register(handler: Any) -> Any:
            self.routes.add_handler(handler_plan(handler, retry=retry, time_limit=time_limit))
            return handler

        return register if function is None else register(function)

    def prepares(self, function: PreparationT, /) -> PreparationT:
        """Registers what to do before the first message at every start: making tables, for one.

        The function takes a `Transaction`, or the driver's own connection class, and runs in a transaction of its
        own, which commits when it returns. Several processes may start at once, one after the other gets its
        turn, so write it to bear repetition: CREATE TABLE IF NOT EXISTS.
        """
        self.preparations.append(function)
        return function

    def provide(self, kind: type[NeedT], provider: NeedT | Callable[[], Any]) -> None:
        """Says what is injected where a handler asks for `kind`: a value, or a function that makes it.

        The function is called once, when the service starts; it may be async, and it may return an async
        context manager, which is left when the service stops.
        """
        self.providers[kind] = cast(Provider, provider) if _is_factory(provider, kind) else lambda: provider

    def __repr__(self) -> str:
        return f"Service({self.name!r})"


def _is_factory(provider: object, kind: type[Any]) -> bool:
    return callable(provider) and (isinstance(provider, type) or not isinstance(provider, kind))
