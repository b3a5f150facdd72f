"""Our stream, and the two consumers of each service: made if missing, and refused if they cannot be used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from outlast.adapters.nats.names import Names
from outlast.adapters.nats.place import Place
from outlast.adapters.nats.session import Absent, Refused, Session
from outlast.errors import Misuse, Unavailable
from outlast.ports import Finding

OLDEST = (2, 12)
"""The first NATS with atomic batches."""

STREAM_MISSING, CONSUMER_MISSING, STREAM_EXISTS, NOT_FOR_ACCOUNT, NOT_ENABLED = 10059, 10014, 10058, 10039, 10076
DUPLICATE_WINDOW = 120 * 10**9
UNACKNOWLEDGED_MAX = 20_000
"""Of one service in all its processes."""


def check_server(session: Session) -> None:
    """Raises `Misuse` if the server lacks what we need."""
    version = str(session.line.info.get("version", "0"))
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    if numbers < OLDEST:
        raise Misuse(
            f"the NATS at {session.place.name} has version {version}, and outlast needs {OLDEST[0]}.{OLDEST[1]} or "
            "newer for atomic batches. Install a newer nats-server."
        )


async def make_stream(session: Session, place: Place, names: Names) -> bool:
    """Makes sure that the stream is there; returns whether it was missing. Raises `Misuse` or `Unavailable`."""
    wanted: dict[str, Any] = {
        "name": names.stream,
        "subjects": names.subjects,
        # Nothing goes by itself; see `sweeping`. Were a message to go when it is acknowledged (work queue, interest),
        # the server would sync each for itself, and so take a thirtieth of what it takes now.
        "retention": "limits",
        "storage": "file",
        # A full stream refuses what is new; it never throws away what it has.
        "discard": "new",
        "allow_atomic": True,
        "duplicate_window": DUPLICATE_WINDOW,
        "num_replicas": place.replicas or 1,
    }
    found = await config_of(session, f"STREAM.INFO.{names.stream}", missing=STREAM_MISSING)
    if found is None:
        try:
            await ask(session, f"STREAM.CREATE.{names.stream}", wanted)
        except Refused as error:
            if error.code != STREAM_EXISTS:
                raise _misuse(error) from error
            found = await config_of(session, f"STREAM.INFO.{names.stream}", missing=STREAM_MISSING) or {}
        else:
            return True
    _check_stream(names.stream, found, wanted, place)
    if not found.get("allow_atomic") or (place.replicas or found["num_replicas"]) != found["num_replicas"]:
        # What an operator has set beside, a limit of size for example, stays.
        changed = {**found, "allow_atomic": True, "num_replicas": place.replicas or found["num_replicas"]}
        try:
            await ask(session, f"STREAM.UPDATE.{names.stream}", changed)
        except Refused as error:
            raise _misuse(error) from error
    return False


def _check_stream(name: str, found: dict[str, Any], wanted: dict[str, Any], place: Place) -> None:
    differences = [
        f"{key} is {found.get(key)!r} and must be {wanted[key]!r}"
        for key in ("subjects", "retention", "storage")
        if found.get(key) != wanted[key]
    ]
    if found.get("max_age"):
        differences.append("it has a max_age, and so throws away what was not handled in time")
    limits = [key for key in ("max_msgs", "max_bytes", "max_msgs_per_subject") if found.get(key, -1) > 0]
    if limits and found.get("discard") != "new":
        differences.append(f"it has {' and '.join(limits)}, and throws away the oldest; set discard to new")
    if differences:
        raise Misuse(
            f"the stream {name!r} on {place.name} exists and cannot be used: {'; '.join(differences)}. Change it, "
            "or use another prefix: ?prefix=..."
        )


async def make_queue(session: Session, place: Place, names: Names, service: str) -> bool:
    """Makes sure that the service's commands can be pulled; returns whether the consumer was missing."""
    wanted = _consumer(names.commands_of(service), place)
    wanted |= {"deliver_policy": "all", "filter_subject": names.queue(service)}
    return await _make_consumer(session, names.stream, wanted, change=True)


async def make_subscriptions(
    session: Session, place: Place, names: Names, service: str, topics: Sequence[str], *, change: bool
) -> bool:
    """Makes sure that the service gets these topics; returns whether the consumer was missing.

    Without `change` a consumer that exists stays as it is: a newer version of the service may have changed it.
    """
    name = names.events_of(service)
    if not topics:
        if change:
            await _delete_consumer(session, names.stream, name)
        return False
    wanted = _consumer(name, place)
    # From now on: what is still kept was published before this service wanted it.
    wanted |= {"deliver_policy": "new", "filter_subjects": sorted({names.topic(topic) for topic in topics})}
    return await _make_consumer(session, names.stream, wanted, change=change)


def _consumer(name: str, place: Place) -> dict[str, Any]:
    return {
        "name": name,
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": int(place.ack_wait_seconds * 10**9),
        # Whether a message is given up is decided by the runtime, which writes down why.
        "max_deliver": -1,
        "max_ack_pending": UNACKNOWLEDGED_MAX,
    }


async def _make_consumer(session: Session, stream: str, wanted: dict[str, Any], *, change: bool) -> bool:
    name = wanted["name"]
    found = await config_of(session, f"CONSUMER.INFO.{stream}.{name}", missing=CONSUMER_MISSING)
    config = wanted
    if found is not None:
        # These cannot be changed, and what an operator has set beside stays.
        first: dict[str, Any] = {
            key: found[key] for key in ("deliver_policy", "opt_start_seq", "opt_start_time") if key in found
        }
        config = {**found, **wanted, **first}
        if "filter_subjects" in wanted:
            config.pop("filter_subject", None)
        if not change or config == found:
            return False
    question = {"stream_name": stream, "config": config, "action": "" if found is None else "update"}
    try:
        await ask(session, f"CONSUMER.CREATE.{stream}.{name}", question)
    except Refused as error:
        raise _misuse(error) from error
    return found is None


async def _delete_consumer(session: Session, stream: str, name: str) -> None:
    try:
        await ask(session, f"CONSUMER.DELETE.{stream}.{name}")
    except Refused as error:
        if error.code != CONSUMER_MISSING:
            raise _misuse(error) from error


async def depth(session: Session, names: Names, services: Sequence[str]) -> dict[str, int]:
    """How many messages wait for each service, handed over or not."""
    answer = await ask(session, f"STREAM.INFO.{names.stream}", {"subjects_filter": names.subjects[0]})
    kept: dict[str, int] = answer["state"].get("subjects") or {}
    commands = await asyncio.gather(*(_pending(session, names.stream, names.commands_of(one)) for one in services))
    events = await asyncio.gather(*(_pending(session, names.stream, names.events_of(one)) for one in services))
    return {
        service: (kept.get(names.queue(service), 0) if queued is None else queued) + (subscribed or 0)
        for service, queued, subscribed in zip(services, commands, events, strict=True)
    }


async def _pending(session: Session, stream: str, consumer: str) -> int | None:
    try:
        found = await ask(session, f"CONSUMER.INFO.{stream}.{consumer}")
    except Refused as error:
        if error.code in (CONSUMER_MISSING, STREAM_MISSING):
            return None
        raise _misuse(error) from error
    return int(found["num_pending"]) + int(found["num_ack_pending"])


async def config_of(session: Session, subject: str, *, missing: int) -> dict[str, Any] | None:
    try:
        answer = await ask(session, subject)
    except Refused as error:
        if error.code == missing:
            return None
        raise _misuse(error) from error
    config: dict[str, Any] = answer["config"]
    return config


async def ask(session: Session, subject: str, question: Any = None) -> Any:
    try:
        return await session.ask(subject, question)
    except Absent as error:
        # Nobody answers where JetStream is off; it may also be that its leader is being elected.
        if not session.line.info.get("jetstream"):
            raise Misuse(
                f"the NATS at {session.place.name} has no JetStream. Start nats-server with -js, or with jetstream "
                "{ store_dir: ..., sync_interval: always } in its configuration."
            ) from error
        raise Unavailable(f"{error} JetStream is not ready.") from error
    except Refused as error:
        if error.code in (NOT_FOR_ACCOUNT, NOT_ENABLED):
            raise Misuse(
                f"JetStream is not enabled for this user's account on {session.place.name}. Enable it there: "
                "accounts { name { jetstream: enabled } }."
            ) from error
        if error.is_passing and error.code not in (STREAM_MISSING, CONSUMER_MISSING):
            raise Unavailable(str(error)) from error
        raise


def _misuse(error: Refused) -> Misuse:
    return Misuse(f"{error}. Check the streams and consumers of this prefix, or use another one: ?prefix=...")


async def examine(session: Session, names: Names) -> list[Finding]:
    """What may matter of the server, the account and the streams. Raises `Unavailable`."""
    account = await ask(session, "INFO")
    info = session.line.info
    findings = [
        Finding(what="NATS server", is_good=True, seen=f"version {info.get('version')} at {session.place.name}"),
        Finding(what="largest message", is_good=True, seen=f"{session.size_max} bytes, with headers"),
    ]
    limit = int(account.get("limits", {}).get("max_storage", -1))
    used = int(account.get("storage", 0))
    findings.append(
        Finding(
            what="storage of the account",
            is_good=limit <= 0 or used < 0.8 * limit,
            seen=f"{used} bytes of {limit if limit > 0 else 'no limit'} are used",
            advice="Let the services run that are behind, or raise max_file. A full JetStream takes no messages.",
        )
    )
    config = await config_of(session, f"STREAM.INFO.{names.stream}", missing=STREAM_MISSING)
    replicas = config["num_replicas"] if config is not None else 0
    findings.append(
        Finding(
            what=f"durability of the stream {names.stream!r}",
            is_good=config is not None,
            seen=f"{replicas} replicas" if replicas > 1 else ONE_REPLICA if replicas else "it does not exist",
            advice="It is made when a worker starts.",
        )
    )
    return findings


ONE_REPLICA = (
    "one server keeps it, and does not tell whether it syncs what it confirms. It does so only with "
    "jetstream { sync_interval: always }; otherwise a power cut loses up to two minutes of messages"
)
