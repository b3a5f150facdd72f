"""From `module:service` to Service objects, with errors that say where the trouble is."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from outlast.core.message import Message
from outlast.errors import Misuse, OutlastError
from outlast.runtime.service import Service


def load_services(targets: Sequence[str]) -> list[Service]:
    """The services that these targets name, each once; a module without `:service` means all it has."""
    found: dict[int, Service] = {}
    for target in targets:
        for service in _services(target):
            found.setdefault(id(service), service)
    return list(found.values())


def _services(target: str) -> list[Service]:
    module_name, _, attribute = target.partition(":")
    module = load_module(module_name, target)
    if attribute:
        service: Any = module
        for part in attribute.split("."):
            service = getattr(service, part, None)
        if not isinstance(service, Service):
            what = "has no such name" if service is None else f"has a {type(service).__name__} by that name"
            raise Misuse(f"{target!r} names no service: the module {module_name!r} {what}. {_choices(module)}")
        return [service]
    services = services_in(module)
    if not services:
        raise Misuse(
            f"{target!r} has no services: the module {module_name!r} defines and imports no outlast.Service. "
            "Name the module that does."
        )
    return services


def services_in(module: ModuleType) -> list[Service]:
    """The services among a module's names."""
    return [value for value in vars(module).values() if isinstance(value, Service)]


def load_module(name: str, target: str) -> ModuleType:
    """Imports a module. Raises `Misuse` that says where the import failed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Misuse(
                f"{target!r} cannot be loaded: there is no module {error.name!r} in {os.getcwd()} or among the "
                "installed packages. Run this where the module is, or install it."
            ) from error
        raise _broken(target, error) from error
    except OutlastError:
        raise
    except (Exception, SystemExit) as error:  # importing runs user code, which may raise anything
        raise _broken(target, error) from error


def find_message(name: str, services: Sequence[Service], modules: Sequence[str]) -> type[Message]:
    """The message class with this class name or wire name, or at this `module:Class`. Raises `Misuse`."""
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        kind = getattr(load_module(module_name, name), attribute, None)
        if not (isinstance(kind, type) and issubclass(kind, Message)):
            raise Misuse(f"{name!r} names no message class. Write it as module:Class.")
        return kind
    known = _messages(services, modules)
    matches = [kind for kind in known if name in (kind.__name__, kind.__wire_name__)]
    if len(matches) != 1:
        names = ", ".join(sorted({kind.__name__ for kind in known})) or "none"
        what = "means several classes" if matches else "is no message of these services"
        raise Misuse(f"{name!r} {what}. They know {names}. Any other class can be named as module:Class.")
    return matches[0]


def _messages(services: Sequence[Service], modules: Sequence[str]) -> list[type[Message]]:
    """What the services handle or send, and the classes that their modules mention."""
    found: dict[type[Message], None] = {}
    for service in services:
        catalogue = service.routes.catalogue
        handled = [catalogue[name] for name in catalogue]
        returned = [kind for plan in service.routes.handlers.values() for kind in plan.returns]
        for kind in [*handled, *returned]:
            if isinstance(kind, type):
                found[kind] = None
    for module in modules:
        for value in vars(import_module(module.partition(":")[0])).values():
            if isinstance(value, type) and issubclass(value, Message) and value.__module__ != "outlast.core.message":
                found[value] = None
    return list(found)


def _choices(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Service)]
    return f"It has the services {', '.join(names)}." if names else "It has no services at all."


def _broken(target: str, error: BaseException) -> Misuse:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and __file__ != frame.filename]
    where = f" at {os.path.relpath(own[-1].filename)}:{own[-1].lineno}" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" at {os.path.relpath(error.filename)}:{error.lineno}"
    return Misuse(
        f"{target!r} cannot be loaded: {type(error).__name__}: {error}{where}. Mend that; -v shows the traceback."
    )
