"""`outlast doctor`: what it examines, and what its exit code says."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from outlast import Client
from outlast.cli.group import run


async def made(path: Path) -> str:
    url = f"sqlite:///{path / 'shop.db'}"
    async with Client(url):
        pass
    return url


async def test_what_is_well_is_told_and_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = await made(tmp_path)

    code = await _run("doctor", "--url", url, "--json")

    findings = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {finding["what"] for finding in findings} >= {"SQLite", "journal", "disk"}
    assert all(finding["is_good"] for finding in findings)


async def test_a_disk_that_is_nearly_full_exits_with_8_and_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await made(tmp_path)

    def usage(path: object) -> Any:
        return shutil._ntuple_diskusage(10 << 30, 10 << 30, 1 << 20)  # type: ignore[attr-defined]

    monkeypatch.setattr(shutil, "disk_usage", usage)

    code = await _run("doctor", "--url", url)

    out = capsys.readouterr().out
    assert code == 8
    assert "1 MiB are free" in out
    assert "Make room" in out


async def _run(*arguments: str) -> int:
    return await asyncio.to_thread(run, arguments)
