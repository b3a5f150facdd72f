"""A shop with a past: one order is completed, one waits for payment, which is down, and two have failed."""

from __future__ import annotations

import queue
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
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)

    def reads(self, text: str) -> str:
        """Waits for a line of stderr that contains the text."""
        return self.err.until(text)

    def prints(self, text: str) -> str:
        """Waits for a line of stdout that contains the text."""
        return self.out.until(text)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> Said:
        """Waits for its end; returns what it said since it was last waited for."""
        self.process.wait(LONGEST)
        return Said(self.process.returncode, self.out.rest(), self.err.rest())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Lines:
    """What comes out of a pipe. A thread reads it, so that no wait is for ever, whoever holds the other end."""

    def __init__(self, stream: IO[str] | None) -> None:
        assert stream is not None
        self.stream = stream
        self.lines: queue.Queue[str] = queue.Queue()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        with self.stream:
            for line in self.stream:
                self.lines.put(line)
        self.lines.put("")

    def until(self, text: str) -> str:
        seen = ""
        while line := self.lines.get(timeout=LONGEST):
            seen += line
            if text in line:
                return line
        raise AssertionError(f"it ended without saying {text!r}, but said: {seen}")

    def rest(self) -> str:
        return "".join(iter(lambda: self.lines.get(timeout=LONGEST), ""))


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
