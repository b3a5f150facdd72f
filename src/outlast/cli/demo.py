"""`outlast demo`: the example shop, run through failures."""

from __future__ import annotations

from importlib import import_module

import click

from outlast.cli.settings import Given, options
from outlast.errors import NotFound


@click.command("demo")
@click.option(
    "--engine",
    type=click.Choice(["sqlite", "postgres", "rabbitmq", "nats"]),
    default="sqlite",
    show_default=True,
    help="What it runs on; private servers are started for it.",
)
@click.option("--seed", default=1, show_default=True, help="Which failures happen, and when.")
@click.option("--keep", metavar="DIRECTORY", help="Keep everything in this empty directory, to look at it afterwards.")
@options(url=False)
def demo_command(given: Given, engine: str, seed: int, keep: str | None) -> int:
    """Run the example shop through failures and show that nothing is lost.

    It needs the examples folder of the source distribution in the working directory.
    """
    try:
        demo = import_module("examples.shop.demo")
    except ModuleNotFoundError as error:
        if error.name is None or not "examples.shop.demo".startswith(error.name):
            raise
        raise NotFound(
            "the demo cannot be run: there is no examples/shop/demo.py in the working directory. It comes with "
            "the source and not with the installed package; unpack the source distribution (pip download "
            "--no-deps --no-binary :all: outlast) and run `outlast demo` in its folder. A project of your own is "
            "made by `outlast new shop`."
        ) from error
    try:
        return int(demo.run_demo(seed=seed, keep=keep, as_json=given.as_json, engine=engine))
    except demo.Missing as missing:
        raise NotFound(str(missing)) from missing
