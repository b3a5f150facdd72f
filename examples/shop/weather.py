"""The weather of a chaos run: which faults befall the shop's processes, its disk and its clocks, and when."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

from examples.shop.clocks import OFFSETS
from examples.shop.disk import Disk
from examples.shop.fleet import SERVICES
from examples.shop.premises import BROKER, DATABASE
from examples.shop.recovery import Pace
from examples.shop.server_weather import NETWORK_FAULTS, SERVER_FAULTS, ServerWeather
from examples.shop.stage import Stage

PROCESS_FAULTS = ("kill", "stop", "term")
FAULTS = {
    "sqlite": (*PROCESS_FAULTS, "disk", "clock"),
    "postgres": (*PROCESS_FAULTS, DATABASE, *NETWORK_FAULTS),
    "rabbitmq": (*PROCESS_FAULTS, DATABASE, BROKER, *NETWORK_FAULTS, "alarm", "queue"),
    "nats": (*PROCESS_FAULTS, DATABASE, BROKER, *NETWORK_FAULTS),
}
"""What there is on each engine."""
SERVERS = "the servers"
FELT_SECONDS = 15.0
"""How long a disk stays full at most until somebody feels it: a write-ahead log has some room of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storm:
    """What a chaos run does."""

    engine: str = "sqlite"
    kills: int = 200
    minutes: float = 0.0
    """If not 0, it lasts so long, however many kills there are."""
    seed: int = 1
    faults: tuple[str, ...] = ("kill",)
    """Every second one is a kill, and the others are any of these."""
    processes: int = 1
    """Of each service."""
    per_second: float = 50.0
    """Orders."""
    slow_labels: float = 0.05
    """The share of the carrier's requests, and of its answers, that take longer than the impatient wait.

    A timer that fires because a service is down is seen late; one that fires while all work is seen when it fires.
    """
    shortest_gap_seconds: float = 0.1
    mean_gap_seconds: float = 0.35
    longest_away_seconds: float = 2.0
    """Of a service."""
    longest_trouble_seconds: float = 8.0
    """Of a server or the network."""
    rest_seconds: float = 180.0
    """How long the shop may take to come to rest afterwards."""

    @property
    def names(self) -> list[str]:
        """The processes: `payment`, and `payment.2` if there are two of each service."""
        further = range(2, self.processes + 1)
        return [*SERVICES, *(f"{service}.{number}" for service in SERVICES for number in further)]


class Weather:
    """Brings the faults about. Each process has one fault at a time; several may have theirs at once."""

    def __init__(self, storm: Storm, stage: Stage, disk: Disk | None) -> None:
        self.storm = storm
        self.done: Counter[str] = Counter()
        self.full_disks_felt = 0
        """How many of the full disks made the storefront refuse an order."""
        self.pace = Pace(storm.per_second)
        self._stage = stage
        self._disk = disk
        self._chance = random.Random(storm.seed)
        self.servers = ServerWeather(stage, self._chance, self.pace, longest_seconds=storm.longest_trouble_seconds)
        self._struck: set[str] = set()

    async def rage(self) -> None:
        """Strikes until it is enough, and returns when everybody is up again."""
        storm, chance = self.storm, self._chance
        async with asyncio.TaskGroup() as strikes:
            while not self._is_enough():
                gap = chance.expovariate(1 / (storm.mean_gap_seconds - storm.shortest_gap_seconds))
                await asyncio.sleep(storm.shortest_gap_seconds + gap)
                fault = "kill" if chance.random() < 0.5 else chance.choice(storm.faults)
                struck = self._target(fault)
                if struck in self._struck:
                    continue
                self._struck.add(struck)
                self.done[fault] += 1
                if fault == "queue":
                    await self._alone(struck, fault)
                else:
                    strikes.create_task(self._strike(struck, fault))
        if self._stage.fleet.clocks is not None:
            # What was dated by a clock that was ahead would else wait until the machine's clock is there.
            self._stage.fleet.clocks.agree()

    def _is_enough(self) -> bool:
        if self.storm.minutes:
            return self._stage.watch.seconds() > 60 * self.storm.minutes
        return self.done["kill"] >= self.storm.kills

    def _target(self, fault: str) -> str:
        if fault == "disk":
            return "the disk"
        return SERVERS if fault in SERVER_FAULTS else self._chance.choice(self.storm.names)

    async def _alone(self, struck: str, fault: str) -> None:
        """A fault that the others must be over for, and that none begins during."""
        while self._struck != {struck}:  # noqa: ASYNC110  (a set gives no notice)
            await asyncio.sleep(0.05)
        await self._strike(struck, fault)

    async def _strike(self, struck: str, fault: str) -> None:
        match fault:
            case _ if struck == SERVERS:
                if not await self.servers.strike(fault):
                    self.done[fault] -= 1
            case "disk":
                await self._fill_disk()
            case "clock":
                self._set_clock(struck)
            case "stop":
                await self._freeze(struck)
            case _:
                await self._end(struck, fault)
        self._struck.discard(struck)

    async def _end(self, name: str, fault: str) -> None:
        chance, fleet = self._chance, self._stage.fleet
        away = chance.choice((0.0, chance.uniform(0.0, self.storm.longest_away_seconds)))
        if fault == "kill":
            fleet.kill(name)
        else:
            await asyncio.to_thread(fleet.terminate, name)
        await asyncio.sleep(away)
        fleet.start(name)

    async def _freeze(self, name: str) -> None:
        self._stage.fleet.freeze(name)
        await asyncio.sleep(self._chance.uniform(0.2, 3.0))
        self._stage.fleet.thaw(name)

    def _set_clock(self, name: str) -> None:
        clocks = self._stage.fleet.clocks
        assert clocks is not None
        clocks.set(name, self._chance.choice([offset for offset in OFFSETS if offset != clocks.offset(name)]))

    async def _fill_disk(self) -> None:
        assert self._disk is not None
        storefront, rest = self._stage.storefront, self._chance.uniform(0.5, 4.0)
        refused = storefront.refused

        def is_felt() -> bool:
            return storefront.refused > refused

        async with self._disk.full():
            loop = asyncio.get_running_loop()
            latest = loop.time() + FELT_SECONDS
            while not is_felt() and loop.time() < latest:  # noqa: ASYNC110  (a count gives no notice)
                await asyncio.sleep(0.05)
            await asyncio.sleep(rest)
        self.full_disks_felt += is_felt()
