"""The picture of docs/performance.md: three ratios for each engine, and the lines they have to reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from bench.page import GOALS, NAMES, lowest, room

Figures = dict[str, Any]

OURS, GROUND, MUST, AIM = "#2b5d8a", "#d9d9d9", "#b03a2e", "#3c8d40"
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
TITLES = {
    "limit": "share of the hand-written limit",
    "peer": "times the best peer",
    "scaling": "two processes against one",
}


def draw(stored: dict[str, Figures], measured: list[str], path: Path) -> None:
    """Writes it as .svg and .png."""
    mpl.rcParams["svg.hashsalt"] = "outlast"  # the same figures make the same file
    mpl.rcParams["font.family"] = "DejaVu Sans"
    figure, places = pyplot.subplots(1, 3, figsize=(11, 0.9 + 0.55 * len(measured)), sharey=True)
    for place, part in zip(places, TITLES, strict=True):
        bars(place, stored, measured, part)
    places[0].set_yticks(range(len(measured)), [NAMES[engine] for engine in measured])
    places[0].invert_yaxis()
    legend = "red: must be reached   green: aimed at   grey: what the cores leave room for, at most"
    figure.text(0.995, 0.01, legend, ha="right", fontsize=7.5, color="#555555")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    pyplot.close(figure)


def bars(place: Axes, stored: dict[str, Figures], measured: list[str], part: str) -> None:
    goals = GOALS.get(part, ())
    longest = max(goals, default=1)
    for row, engine in enumerate(measured):
        found = lowest(stored[engine], part)
        if found is None:
            place.text(0, row, " not measured", va="center", fontsize=8, color="#888888")
            continue
        ratio, (low, high) = found["ratio"], found["ratio_range"]
        end = max(high, room(engine, found)) if part == "scaling" else high
        longest = max(longest, end)
        if part == "scaling":
            place.barh(row, room(engine, found), height=0.55, color=GROUND)
        place.barh(row, ratio, height=0.55, color=OURS)
        place.plot([low, high], [row, row], color="#1a1a1a", linewidth=1)
        text = f"{ratio:.2f}" if ratio < 5 else f"{ratio:.1f}"
        place.text(end + 0.02 * longest, row, text, va="center", fontsize=9, bbox=LABEL)
    for goal, color, style in zip(goals, (MUST, AIM), ("-", "--"), strict=False):
        place.axvline(goal, color=color, linewidth=1, linestyle=style)
    place.set_xlim(0, longest * 1.22)
    place.set_title(TITLES[part], fontsize=10)
    place.tick_params(labelsize=8.5, length=0)
    place.xaxis.grid(color=GROUND, linewidth=0.6)
    place.set_axisbelow(True)
    for side in ("top", "right", "left"):
        place.spines[side].set_visible(False)
