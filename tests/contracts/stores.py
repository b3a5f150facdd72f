"""What the contract is tried on: stores that a URL names, and nothing more, so that another process opens them too."""

from __future__ import annotations

from dataclasses import dataclass

from outlast.engines import inspector_of, open_engine
from outlast.ports import Engine, Inspector, World


@dataclass(frozen=True)
class AtUrl:
    url: str

    def open(self, world: World) -> Engine:
        return open_engine(self.url, world)[0]

    def inspector(self, engine: Engine) -> Inspector:
        return inspector_of(engine)
