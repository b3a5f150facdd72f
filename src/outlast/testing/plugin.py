"""The pytest plugin, found by itself once outlast is installed. Importing it imports nothing else of outlast.

| fixture      | gives                                                                          |
|--------------|--------------------------------------------------------------------------------|
| `scenario`   | a `Scenario` of the workflow in its annotation: `scenario: Scenario[Fulfilment]` |
| `simulation` | what makes a `Simulation`: `sim = simulation([ordering, payment])`              |
| `engine_url` | the URL of a new SQLite file, for `Worker`, `Client` and `Tracked`             |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import pytest

if TYPE_CHECKING:
    from outlast.testing.scenario import Scenario
    from outlast.testing.simulation import Simulation

# So that a broken promise of an engine shows the values, as in a test module.
pytest.register_assert_rewrite("outlast.testing.contracts")


@pytest.fixture
def scenario(request: pytest.FixtureRequest) -> Scenario[Any]:
    """A scenario of the workflow that the test names: `def test_it(scenario: Scenario[Fulfilment])`."""
    from outlast.testing.scenario import Scenario

    test = request.function
    try:
        annotation = get_type_hints(test).get("scenario")
    except NameError as error:
        pytest.fail(
            f"{test.__qualname__} annotates a parameter with something that cannot be found: {error}. Define the "
            "workflow, and import Scenario, at the top level of the module.",
            pytrace=False,
        )
    workflows = get_args(annotation)
    if not workflows:
        pytest.fail(
            f"{test.__qualname__} does not say which workflow its scenario is for. Annotate the parameter: "
            "scenario: Scenario[Fulfilment].",
            pytrace=False,
        )
    return Scenario(workflows[0])


@pytest.fixture
def simulation() -> Iterator[Callable[..., Simulation]]:
    """Makes a `Simulation`, with the same arguments; it ends with the test."""
    from outlast.testing.simulation import Simulation

    with ExitStack() as stack:

        def made(*arguments: Any, **options: Any) -> Simulation:
            return stack.enter_context(Simulation(*arguments, **options))

        yield made


@pytest.fixture
def engine_url(tmp_path: Path) -> str:
    """The URL of a SQLite file of this test's own; two engines on it see the same messages."""
    return f"sqlite:///{tmp_path / 'outlast.db'}"
