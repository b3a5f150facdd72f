"""Runs the peers of an engine: what users would pick instead, each in a virtual environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.stand import Stand

ROOT = Path(__file__).parents[1]
PEER_SECONDS_MAX = 300


@dataclass(frozen=True)
class Peer:
    """A program of `bench/peers`, and what it is told."""

    program: str
    servers: tuple[str, ...]
    """Whose URLs it is given, in this order."""
    orders: int
    """So many take it about as long as ours takes for all."""
    topology: str = ""

    def run(self, stand: Stand, *, quick: bool) -> float:
        """Orders per second."""
        orders = max(20, self.orders // 20) if quick else self.orders
        urls = [getattr(stand, server).url for server in self.servers]
        ended = subprocess.run(
            [
                environment(self.program),
                ROOT / f"bench/peers/{self.program}_run.py",
                *urls,
                str(orders),
                *filter(None, [self.topology]),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=PEER_SECONDS_MAX,
        )
        if ended.returncode:
            raise RuntimeError(f"{self.program} failed:\n{ended.stderr[-2000:]}")
        return json.loads(ended.stdout.strip().splitlines()[-1])["orders_per_second"]


DRAMATIQ = Peer("dramatiq", ("rabbitmq", "postgres"), 2000)
PEERS: Mapping[str, Mapping[str, Peer]] = {
    "sqlite": {"Dramatiq on RabbitMQ and PostgreSQL": DRAMATIQ},
    "postgres": {
        "PgQueuer": Peer("pgqueuer", ("postgres",), 1500),
        "Absurd, services apart": Peer("absurd", ("postgres",), 400, "services"),
        "Absurd, steps of one task": Peer("absurd", ("postgres",), 1500, "steps"),
    },
    "rabbitmq": {"Dramatiq": DRAMATIQ},
    "nats": {"natsaga": Peer("natsaga", ("nats", "postgres"), 200)},
}


def environment(peer: str) -> Path:
    """The Python of the peer's own virtual environment, which is made if need be."""
    home = ROOT / ".bench" / peer
    python = home / "bin" / "python"
    ready = home / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        requirements = ROOT / f"bench/peers/{peer}_requirements.txt"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
        subprocess.run(install, check=True)
        ready.touch()
    return python
