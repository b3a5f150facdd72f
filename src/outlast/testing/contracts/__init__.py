"""What every engine promises, as one suite of tests that every engine passes. Third parties run it too.

    class TestMyEngine(EngineContract):
        features = Features(processes=True)

        @pytest.fixture
        def store(self, tmp_path: Path) -> Store:
            return MyStore(tmp_path)

What an engine does not have is declared in its `Features`, and every test skipped for it says so.
"""

from __future__ import annotations

from outlast.testing.contracts.instances import InstanceContract
from outlast.testing.contracts.letters import LetterContract
from outlast.testing.contracts.operators import InspectorContract
from outlast.testing.contracts.processes import ProcessContract
from outlast.testing.contracts.queues import QueueContract
from outlast.testing.contracts.rig import Features, Rig, Store

__all__ = ["EngineContract", "Features", "Rig", "Store"]


class EngineContract(QueueContract, LetterContract, InstanceContract, InspectorContract, ProcessContract):
    """Subclass it, declare `features`, and give it a fixture named `store`."""
