"""What a handler may be given besides its message."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, cast

import msgspec

from outlast.core.annotations import hints_of, name_of_function, parameters_of
from outlast.core.message import Envelope
from outlast.core.routing import HandlerPlan
from outlast.errors import BadHandler
from outlast.ports import Changes, Engine, Statements, World
from outlast.runtime.service import Service


class Context(msgspec.Struct, frozen=True, gc=False):
    """The journey of the message that is being handled."""

    envelope: Envelope
    service: str
    now: datetime
    """When this attempt began, in UTC."""

    @property
    def message_id(self) -> str:
        return self.envelope.id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this message, and for no other message."""
        return self.envelope.id

    @property
    def conversation(self) -> str:
        """Shared by all messages that one first message led to."""
        return self.envelope.conversation

    @property
    def attempt(self) -> int:
        """1 on the first try; one more after each failure."""
        return self.envelope.attempt

    @property
    def headers(self) -> Mapping[str, str]:
        """Sent along with the first message, and handed on to everything it led to. Read-only."""
        return MappingProxyType(self.envelope.headers)


class Transaction:
    """The turn's own transaction. Rows written here commit with the messages, or not at all.

    Committing and rolling back is not yours; raise an exception to have everything undone.
    """

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    @property
    def connection(self) -> Any:
        """The driver's connection, for what `execute` does not offer."""
        return self._statements.connection

    async def execute(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Runs one statement with bound parameters and returns its rows.

        Placeholders are `?`, or `:name` with a mapping, on every engine. SQL itself is the database's own.
        """
        return await self._statements.execute(sql, parameters)

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Runs one statement for each row of parameters."""
        await self._statements.execute_many(sql, rows)


@dataclass(frozen=True, slots=True)
class Bound:
    """A handler whose needs are known: how to call it for one message."""

    plan: HandlerPlan
    fixed: Mapping[str, Any]
    contexts: tuple[str, ...]
    transactions: tuple[str, ...]
    connections: tuple[str, ...]

    @property
    def in_transaction(self) -> bool:
        """It shares the turn's transaction, so it runs inside the turn and must not wait."""
        return bool(self.transactions or self.connections)

    def arguments(
        self, envelope: Envelope, service: str, world: World, statements: Statements | None = None
    ) -> Mapping[str, Any]:
        """What to call the function with, after the message."""
        if not (self.contexts or self.transactions or self.connections):
            return self.fixed
        arguments = dict(self.fixed)
        for name in self.contexts:
            arguments[name] = Context(envelope, service, world.now())
        if statements is not None:
            for name in self.transactions:
                arguments[name] = Transaction(statements)
            for name in self.connections:
                arguments[name] = statements.connection
        return arguments


async def bind(
    service: Service,
    *,
    connection_type: type[Any] | None,
    overrides: Mapping[Any, Any],
    stack: AsyncExitStack,
) -> dict[str, Bound]:
    """Finds what every handler of the service needs; providers are entered on `stack`."""
    made: dict[Any, Any] = {}
    bound: dict[str, Bound] = {}
    for name, plan in service.routes.handlers.items():
        fixed: dict[str, Any] = {}
        places: dict[Any, list[str]] = {Context: [], Transaction: [], connection_type: []}
        for parameter, kind in plan.needs:
            if kind is not None and kind in places:
                places[kind].append(parameter)
                continue
            if kind not in made:
                made[kind] = await _provided(service, plan, parameter, kind, overrides, stack)
            fixed[parameter] = made[kind]
        if places[Transaction] and connection_type is None:
            raise BadHandler(
                f"{name_of_function(plan.function)} asks for a Transaction, and this engine has none to share. "
                "Use an engine with a database: sqlite:///file.db, or engine='sqlite' in a simulation."
            )
        bound[name] = Bound(
            plan, fixed, tuple(places[Context]), tuple(places[Transaction]), tuple(places[connection_type])
        )
    return bound


async def _provided(
    service: Service,
    plan: HandlerPlan,
    parameter: str,
    kind: Any,
    overrides: Mapping[Any, Any],
    stack: AsyncExitStack,
) -> Any:
    if kind in overrides:
        return overrides[kind]
    try:
        provider = service.providers[kind]
    except KeyError:
        raise BadHandler(
            f"{name_of_function(plan.function)} needs {parameter}: {getattr(kind, '__name__', kind)}, and service "
            f"{service.name!r} does not provide it. Say service.provide({getattr(kind, '__name__', kind)}, ...)."
        ) from None
    value = provider()
    if inspect.isawaitable(value):
        value = await value
    if isinstance(value, AbstractAsyncContextManager):
        value = await stack.enter_async_context(cast(AbstractAsyncContextManager[Any], value))
    return value


async def prepare(service: Service, engine: Engine) -> None:
    """Does what the service wants done before its first message, each part in a transaction of its own."""
    for function in service.preparations:
        where = name_of_function(function)
        kinds = (Transaction, engine.connection_type)
        hints = hints_of(function, BadHandler)
        parameters = parameters_of(function)
        kind = hints.get(parameters[0].name) if len(parameters) == 1 else None
        if kind is None or kind not in kinds:
            raise BadHandler(
                f"{where} prepares service {service.name!r} and must take one parameter: a Transaction, or the "
                "connection class of the engine's driver. An engine without a database has neither."
            )
        work = await engine.begin(service.name)
        try:
            async with work.savepoint() as statements:
                if statements is None:
                    raise BadHandler(f"{where} needs an engine with a database, such as sqlite:///file.db.")
                done = function(Transaction(statements) if kind is Transaction else statements.connection)
                if inspect.isawaitable(done):
                    await done
            await work.commit(Changes())
        except BaseException:
            await work.rollback()
            raise
