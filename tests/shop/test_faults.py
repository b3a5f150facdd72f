"""What brings faults about, piece by piece: the disk, the clocks, and how programs and storefront take them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.shop import storefront as storefronts
from examples.shop.clocks import Clocks, find_library
from examples.shop.disk import Disk, Skipped, small_disk
from examples.shop.fleet import ROOT, Fleet
from examples.shop.ordering import ORDERS, ordering, place_order
from examples.shop.orders import Order, read_orders
from examples.shop.program import url_of
from examples.shop.storefront import Storefront

from outlast import Client
from outlast.engines import inspector_of
from outlast.errors import Unavailable


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    try:
        with small_disk(tmp_path / "small", megabytes=1) as disk:
            yield disk
    except Skipped as reason:
        pytest.skip(str(reason))


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    try:
        clocks = Clocks(tmp_path, find_library())
        clocks.prove()
    except Skipped as reason:
        pytest.skip(str(reason))
    return clocks


async def test_a_full_disk_takes_nothing_until_it_has_room_again(small: Disk) -> None:
    async with small.full():
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (small.directory / "note").write_text("one line")

    (small.directory / "note").write_text("one line")
    assert os.listdir(small.directory) == ["note"]


def test_without_the_library_clocks_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="libfaketime is not installed"):
        find_library([str(tmp_path)])


def test_a_library_that_moves_no_clock_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="does not move the clock"):
        Clocks(tmp_path, tmp_path / "missing.so").prove()


def test_clocks_know_how_far_they_were_apart_and_when(tmp_path: Path) -> None:
    clocks = Clocks(tmp_path, tmp_path / "unused.so")
    before = time.monotonic()
    clocks.set("a", 0)
    clocks.set("b", 0)
    time.sleep(0.01)
    together = time.monotonic()
    time.sleep(0.01)
    clocks.set("b", -90)
    clocks.set("b", 3600)

    assert clocks.apart(before - 2, before - 1) == 0
    assert clocks.apart(before, together) == 0
    assert clocks.apart(before, time.monotonic()) == 3690
    clocks.agree()
    time.sleep(0.01)
    assert clocks.offset("a") == clocks.offset("b") == 3600
    later = time.monotonic() + 100
    assert clocks.apart(later, later) == 0


def test_a_program_with_a_clock_of_its_own_can_sleep_and_measure(clocks: Clocks, tmp_path: Path) -> None:
    """Only its wall clock is off. SQLite's lock is waited for by sleeping."""
    clocks.set("payment", -3600)
    (tmp_path / "program.py").write_text(
        "import time; a = time.monotonic(); time.sleep(0.1); print(a, time.time(), time.monotonic() - a)"
    )

    with subprocess.Popen(
        [sys.executable, "-m", "examples.shop.clocked", "program"],
        env={**os.environ, **clocks.environment("payment"), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
    ) as program:
        printed, _ = program.communicate()
    clocks.forget(program.pid)

    monotonic, wall, slept = map(float, printed.split())
    assert abs(monotonic - time.monotonic()) < 10
    assert abs(wall + 3600 - time.time()) < 10
    assert 0.09 < slept < 1


def test_a_program_that_cannot_begin_asks_for_another_start(tmp_path: Path) -> None:
    with Fleet(tmp_path / "missing", outside=tmp_path) as fleet:
        fleet.start("ordering")
        deadline = time.monotonic() + 20
        while fleet.refused_starts < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            fleet.revive()
        assert fleet.fallen() == []

    assert fleet.refused_starts == 2, (tmp_path / "ordering.log").read_text()


async def test_an_order_of_which_nobody_can_tell_is_asked_for_again_and_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit succeeded, and its success was not heard of."""
    order = read_orders()[0]
    tries = 0

    async def place(client: Client, order: Order) -> bool:
        nonlocal tries
        tries += 1
        is_new = await place_order(client, order)
        if tries == 1:
            raise Unavailable("nobody knows")
        return is_new

    monkeypatch.setattr(storefronts, "place_order", place)
    storefront = Storefront()
    async with Client(url_of(tmp_path)) as client:
        async with client.transaction() as transaction:
            await transaction.execute(ORDERS)
        await client.engine.declare(ordering.name, ordering.routes.topics)
        await storefront.sell(client, [order], per_second=100)
        (queue,) = await inspector_of(client.engine).queues()

    assert storefront.accepted == {order.order_id: order.ship_within}
    assert (storefront.refused, storefront.taken_before) == (1, 1)
    assert queue.waiting == 1
