"""The test kit: from one workflow without an engine to whole systems.

`Scenario` is given/when/then for one workflow. `Tracked` runs services on a real engine and knows when everything
that a message caused is finished. `EngineContract` (in `outlast.testing.contracts`) is what every engine passes.
"""

from outlast.testing.scenario import Scenario
from outlast.testing.world import StillWorld

__all__ = ["Scenario", "StillWorld"]
