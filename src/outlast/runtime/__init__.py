"""The asyncio shell around the core. Read `turn.py` first."""
