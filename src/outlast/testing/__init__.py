"""The test kit: from one workflow without an engine to whole systems.

`Scenario` is given/when/then for one workflow. `Simulation` runs whole services in virtual time, and `explore`,
`interleave` and `search` go through its crashes, races and seeds. `Tracked` runs services on a real engine and
knows when everything that a message caused is finished. `scenario_of` turns what happened in production into a
test. `EngineContract` is what every engine passes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlast.testing.contracts import EngineContract, Features, Store
    from outlast.testing.exploring import Explored, explore, interleave, search
    from outlast.testing.faults import Faults
    from outlast.testing.recorder import scenario_of
    from outlast.testing.scenario import Scenario
    from outlast.testing.simulation import Broken, Effects, Simulation
    from outlast.testing.tape import Fault, Tape
    from outlast.testing.tracked import NotSettled, Settled, Tracked
    from outlast.testing.world import StillWorld

__all__ = [
    "Scenario",
    "Simulation",
    "Effects",
    "Fault",
    "Faults",
    "Tape",
    "explore",
    "interleave",
    "search",
    "Explored",
    "Broken",
    "Tracked",
    "Settled",
    "NotSettled",
    "scenario_of",
    "EngineContract",
    "Features",
    "Store",
    "StillWorld",
]

# Found when first asked for (PEP 562): pytest loads the plugin in every project, and most runs need none of this.
_HOMES = {
    "contracts": ("EngineContract", "Features", "Store"),
    "exploring": ("Explored", "explore", "interleave", "search"),
    "faults": ("Faults",),
    "recorder": ("scenario_of",),
    "scenario": ("Scenario",),
    "simulation": ("Broken", "Effects", "Simulation"),
    "tape": ("Fault", "Tape"),
    "tracked": ("NotSettled", "Settled", "Tracked"),
    "world": ("StillWorld",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
