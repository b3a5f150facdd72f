"""From a command, which is plain, to operations, which are asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from outlast.cli.settings import Given, url_of
from outlast.operations import Operations, open_operations

AnswerT = TypeVar("AnswerT")


def ask(given: Given, question: Callable[[Operations], Awaitable[AnswerT]]) -> AnswerT:
    """Asks one question of the engine at the URL that is given or configured."""

    async def answer() -> AnswerT:
        async with open_operations(url_of(given.url)) as operations:
            return await question(operations)

    return asyncio.run(answer())
