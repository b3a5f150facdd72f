"""One process of a shop: `python -m lab.program SYSTEM PROGRAM DIRECTORY`."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.systems import SYSTEMS
from lab.way import saved_settings

if __name__ == "__main__":
    system, program, directory = sys.argv[1:]
    SYSTEMS[system].way.programs[program](saved_settings(Path(directory)))
