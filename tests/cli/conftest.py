"""A shop with a past: one order is completed, one waits for payment, which is down, and two have failed."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.cli.terminal import LONGEST, SHOP, Said, command, environment, outlast


class Running:
    """A command that goes on, in a process of its own."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=directory,
            env=environment(OUTLAST_URL="sqlite:///shop.db"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.watchdog = threading.Timer(LONGEST, self.process.kill)
        self.watchdog.start()

    def reads(self, text: str) -> str:
        """Waits for a line of stderr that contains the text. An end of the process ends the test."""
        return self._line(self.process.stderr, text)

    def prints(self, text: str) -> str:
        return self._line(self.process.stdout, text)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> Said:
        out, err = self.process.communicate(timeout=LONGEST)
        self.watchdog.cancel()
        return Said(self.process.returncode, out, err)

    def end(self) -> None:
        """Ends it, if it has not ended, without waiting for whoever else may hold its pipes."""
        self.watchdog.cancel()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @staticmethod
    def _line(stream: IO[str] | None, text: str) -> str:
        assert stream is not None
        seen = ""
        for line in stream:
            seen += line
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}, but said: {seen}")


@pytest.fixture
def start(shop: Path) -> Iterator[Callable[..., Running]]:
    """Starts a command in the shop's directory; it is ended with the test."""
    started: list[Running] = []

    def begin(*arguments: str) -> Running:
        started.append(Running(shop, *arguments))
        return started[-1]

    yield begin
    for running in started:
        running.end()


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For tests that only look."""
    directory = tmp_path_factory.mktemp("past")
    (directory / "shop.py").write_text(SHOP)
    worker = Running(directory, "run", "shop")
    worker.reads("ready on")
    for order in ("1", "b1", "b2"):
        sent = outlast(directory, "send", "--app", "shop", "OrderPlaced", f"order_id={order}", "total=84.90")
        assert sent.code == 0, sent.err
    assert outlast(directory, "follow", "1", "--timeout", "10").code == 0
    worker.reads("is a dead letter")
    worker.reads("is a dead letter")
    worker.signal(15)
    assert worker.ends().code == 0
    worker = Running(directory, "run", "shop:ordering")
    worker.reads("ready on")
    outlast(directory, "send", "--app", "shop", "OrderPlaced", "order_id=2", "total=5")
    outlast(directory, "follow", "2", "--timeout", "0.5")
    worker.signal(15)
    worker.ends()
    return directory


@pytest.fixture
def shop(past: Path, tmp_path: Path) -> Path:
    """For tests that change something."""
    directory = tmp_path / "shop"
    shutil.copytree(past, directory, ignore=shutil.ignore_patterns("*-wake", "__pycache__"))
    return directory


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """The program alone, that never ran."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path
