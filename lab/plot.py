"""The picture of docs/why.md: what is left inconsistent, who has to be up, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

# What matplotlib's functions take by keyword has no types.
# pyright: reportUnknownMemberType=false
mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lab.figures import ALL_UP, ONE_AWAY, TWO_AWAY, Figures
from lab.systems import SYSTEMS

GROUND = "#d9d9d9"
BELOW = (0.5, -0.08)
LOST = {"paid_not_shipped": "#b03a2e", "shipped_not_paid": "#d98a3d", "charged_twice": "#7a3b8f"}
UP = {ALL_UP: "#2b5d8a", ONE_AWAY: "#6f9bc1", TWO_AWAY: "#b5cde0"}
COST = {"answer_ms": "#2b5d8a", "done_ms": "#9aa5ad"}


def draw(figures: Figures, path: Path) -> None:
    """Writes it as .svg and .png."""
    mpl.rcParams["svg.hashsalt"] = "outlast"  # the same figures make the same file
    mpl.rcParams["font.family"] = "DejaVu Sans"
    systems: dict[str, Any] = figures["systems"]
    figure, places = pyplot.subplots(1, 3, figsize=(12, 1.4 + 0.5 * len(systems)), sharey=True)
    inconsistent(places[0], systems)
    bars(places[1], systems, {name: [_taken(one, name) for one in systems.values()] for name in UP}, UP, "%")
    places[1].set_title("orders taken at the first try, by services away", fontsize=10)
    medians = {name: [one["without_faults"][name].get("p50", 0.0) for one in systems.values()] for name in COST}
    bars(places[2], systems, medians, COST, "ms")
    places[2].set_title("median without faults", fontsize=10)
    for place, colours, names in (
        (places[0], LOST, [name.replace("_", " ") for name in LOST]),
        (places[1], UP, ["none away", "one away", "two away"]),
        (places[2], COST, ["answer", "shipped"]),
    ):
        patches = [Patch(color=colour) for colour in colours.values()]
        place.legend(
            patches, names, fontsize=7.5, frameon=False, loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.1)
        )
    places[0].set_yticks(range(len(systems)), [SYSTEMS[name].title for name in systems])
    places[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)


def inconsistent(place: Axes, systems: dict[str, Any]) -> None:
    """Stacked by what is wrong."""
    starts = [0] * len(systems)
    for name, colour in LOST.items():
        counts = [one["with_faults"][name] for one in systems.values()]
        place.barh(range(len(systems)), counts, left=starts, height=0.55, color=colour)
        starts = [start + count for start, count in zip(starts, counts, strict=True)]
    for row, count in enumerate(starts):
        place.text(count, row, f" {count}", va="center", fontsize=9)
    place.set_xlim(0, max(*starts, 1) * 1.2)
    place.set_title("orders left inconsistent", fontsize=10)
    _plain(place)


def bars(
    place: Axes, systems: dict[str, Any], values: dict[str, list[float]], colours: dict[str, str], unit: str
) -> None:
    """Several bars for each system, with their figures."""
    height = 0.75 / len(values)
    for number, (name, lengths) in enumerate(values.items()):
        rows = [row + (number - (len(values) - 1) / 2) * height for row in range(len(systems))]
        place.barh(rows, lengths, height=height * 0.9, color=colours[name])
        for row, length in zip(rows, lengths, strict=True):
            place.text(length, row, f" {length:.0f} {unit}", va="center", fontsize=7.5)
    place.set_xlim(0, max(max(lengths) for lengths in values.values()) * 1.2 or 1)
    _plain(place)


def _taken(measured: dict[str, Any], condition: str) -> float:
    placed, answered = measured["with_faults"]["availability"].get(condition, (0, 0))
    return 100 * answered / placed if placed else 0.0


def _plain(place: Axes) -> None:
    place.tick_params(labelsize=8.5, length=0)
    place.xaxis.grid(color=GROUND, linewidth=0.6)
    place.set_axisbelow(True)
    for side in ("top", "right", "left"):
        place.spines[side].set_visible(False)
