"""Every measurement of an engine in one run, each beside what it is compared with; writes docs/performance.md.

`python -m bench.run` measures on SQLite, `--engine postgres`, `rabbitmq`, `nats` or `all` on the others, with private
servers. `--only limit,peer,scaling,latency,growth,start` for parts, `--quick` for a smoke run, `--json` for the
figures; `--no-page` leaves the page as it is, and so does a quick run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from servers.others import Others

from bench import page
from bench.parts import PARTS, Figures, parts_of
from bench.stand import ENGINES, Servers
from outlast.worker import spare_collector


def measure(engine: str, names: list[str], servers: Servers, *, quick: bool) -> dict[str, Figures]:
    """The figures of these parts of one engine, and on what they were measured."""
    figures: dict[str, Figures] = {}
    for name in names:
        print(f"measuring {name} on {engine} …", file=sys.stderr, flush=True)
        stand = servers.of(engine, peer=name == "peer")
        begin, others = time.perf_counter(), Others()
        figures[name] = PARTS[name](stand, quick=quick)
        spent = time.perf_counter() - begin
        figures[name]["others_cores"] = others.cores()
        print(f"  {json.dumps(figures[name])} ({spent:.0f} s)", file=sys.stderr, flush=True)
    figures["settings"] = page.settings(servers.of(engine))
    return figures


def wanted(engine: str, only: str) -> list[str]:
    names = only.split(",") if only else parts_of(engine)
    return [name for name in names if name in parts_of(engine)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures outlast beside hand-written limits and peers.")
    parser.add_argument("--engine", choices=[*ENGINES, "all"], default="sqlite")
    parser.add_argument("--only", default="", help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-page", action="store_true")
    arguments = parser.parse_args()
    unknown = set(filter(None, arguments.only.split(","))) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    figures: dict[str, dict[str, Figures]] = {}
    spare_collector()  # as `outlast.run` does; the programs that are compared with us in one process have it, too
    with Servers() as servers:
        for engine in ENGINES if arguments.engine == "all" else [arguments.engine]:
            figures[engine] = measure(engine, wanted(engine, arguments.only), servers, quick=arguments.quick)
            if not arguments.quick and not arguments.no_page:
                page.add(engine, figures[engine])  # at once, so that an interrupted run keeps what it has
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
