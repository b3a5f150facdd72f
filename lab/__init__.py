"""The argument for asynchronous workflows, as a program: one shop built in four ways, under one schedule of faults.

Start with `business.py`, which all four share, and read `monolith.py`, `chained.py`, `orchestrated.py` and
`workflow.py` side by side. `python -m lab` runs them, and `docs/why.md` tells what came out.
"""
