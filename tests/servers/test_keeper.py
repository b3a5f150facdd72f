"""No server, and nothing of one, outlives the program that started it, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import wait_for

WITHIN = 20

PROGRAM = """
import sys, time
from servers.nats import Nats
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ
server = {"nats": Nats, "postgres": Postgres, "rabbitmq": RabbitMQ}[sys.argv[1]]()
server.start()
if sys.argv[2] == "paused":
    server.pause()
print(server.directory, flush=True)
if sys.argv[2] == "returns":
    raise SystemExit
time.sleep(60)
"""

STUBBORN = """
import subprocess, time
from servers.keeper import Keeper
keeper = Keeper(remove=None)
process = subprocess.Popen(["sh", "-c", "trap '' QUIT TERM HUP; echo ready; while :; do sleep 0.1; done"], stdout=-1)
process.stdout.readline()
keeper.keep(process.pid)
print(process.pid, flush=True)
time.sleep(60)
"""


def living(directory: str) -> list[psutil.Process]:
    """The processes that work in this directory, or below it."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            place, status = process.cwd(), process.status()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if status != psutil.STATUS_ZOMBIE and place.startswith(directory):
            found.append(process)
    return found


ENDS = [(kind, end) for kind in ("postgres", "nats") for end in ("killed", "returns", "paused")]


@pytest.mark.parametrize(("kind", "end"), [*ENDS, ("rabbitmq", "killed")])
def test_a_server_ends_with_its_program(kind: str, end: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(f"{kind}_server")  # for what is to be done where there is none
    with subprocess.Popen([sys.executable, "-c", PROGRAM, kind, end], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        directory = program.stdout.readline().strip()
        assert Path(directory).is_dir()
        if end != "returns":
            assert living(directory)
            program.kill()

    wait_for(lambda: not Path(directory).exists() and not living(directory), within=WITHIN)


def test_what_does_not_want_to_end_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        stubborn = psutil.Process(int(program.stdout.readline()))
        program.kill()

    wait_for(lambda: not stubborn.is_running() or stubborn.status() == psutil.STATUS_ZOMBIE, within=WITHIN)
