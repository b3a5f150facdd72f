"""The report as files: why.json with all figures, why.md that tells what they say, why.svg and why.png."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from lab import page, plot
from lab.figures import Figures


def write(figures: Figures, folder: Path) -> None:
    """Writes the four files into this folder."""
    (folder / "why.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (folder / "why.md").write_text(page.text(figures), encoding="utf-8")
    plot.draw(figures, folder / "why")


def machine() -> str:
    """On what it was measured."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
