"""Instances: one per key, changed by one turn at a time, and everything in a turn or nothing of it."""

from __future__ import annotations

import pytest

from outlast.errors import Conflict
from outlast.ports import Address, Changes, Delivery, Entry, Stash, Withdrawn
from outlast.testing.contracts.rig import Contract, Rig, promise

ONE = Address("shop", "fulfilment", "1")
TWO = Address("shop", "fulfilment", "2")
KEYS = ["", "0", "00000000-0000-0000-0000-000000000000", "a b'c\"d;--", "ключ ♥ \U0001d518", "x" * 1000]
FAULTS = ["version", "second start", "handled elsewhere", "claimed elsewhere", "stash"]


class InstanceContract(Contract):
    """State, stash and the transaction."""

    @promise()
    async def test_an_instance_comes_back_as_it_was_saved(self, rig: Rig) -> None:
        """SG-01, SG-32: it begins with version 1."""
        state = bytes(range(256))

        await rig.commit(Changes(saved=[rig.saved(ONE, state)]), "shop")

        assert await rig.load(ONE) == (state, 1, False)
        assert await rig.load(TWO) is None

    @promise()
    async def test_every_change_counts_the_version_up(self, rig: Rig) -> None:
        """SG-23, SG-32: a small state after a large one leaves nothing of it."""
        await rig.commit(Changes(saved=[rig.saved(ONE, b"x" * 100_000)]), "shop")

        await rig.commit(Changes(saved=[rig.saved(ONE, b"small", 1)]), "shop")
        await rig.commit(Changes(saved=[rig.saved(ONE, b"smaller", 2, done=True)]), "shop")

        assert await rig.load(ONE) == (b"smaller", 3, True)

    @promise()
    async def test_what_was_changed_since_it_was_loaded_cannot_be_saved(self, rig: Rig) -> None:
        """SG-08, SG-32"""
        other = rig.open()
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop")
        await rig.commit(Changes(saved=[rig.saved(ONE, b"2", 1)]), "shop", other)

        with pytest.raises(Conflict):
            await rig.commit(Changes(saved=[rig.saved(ONE, b"3", 1)]), "shop")

        assert await rig.load(ONE) == (b"2", 2, False)

    @promise()
    async def test_a_key_begins_once(self, rig: Rig) -> None:
        """SG-03, SG-12"""
        other = rig.open()
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop", other)

        with pytest.raises(Conflict):
            await rig.commit(Changes(saved=[rig.saved(ONE, b"2")]), "shop")

        assert await rig.load(ONE) == (b"1", 1, False)

    @promise()
    async def test_an_instance_that_is_not_there_cannot_be_changed(self, rig: Rig) -> None:
        with pytest.raises(Conflict):
            await rig.commit(Changes(saved=[rig.saved(ONE, b"2", 1)]), "shop")

        assert await rig.load(ONE) is None

    @promise("overlapping")
    async def test_of_two_turns_at_once_the_later_is_refused(self, rig: Rig) -> None:
        """SG-05, SG-08"""
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop")
        one, two = await rig.engine.begin("shop"), await rig.open().begin("shop")
        assert (await one.load([ONE]))[ONE].version == (await two.load([ONE]))[ONE].version == 1

        await two.commit(Changes(saved=[rig.saved(ONE, b"2", 1)]))
        with pytest.raises(Conflict):
            await one.commit(Changes(saved=[rig.saved(ONE, b"3", 1)]))

        assert await rig.load(ONE) == (b"2", 2, False)

    @promise()
    async def test_a_key_belongs_to_its_workflow_and_service(self, rig: Rig) -> None:
        """SG-13"""
        addresses = [ONE, Address("shop", "returns", "1"), Address("bank", "fulfilment", "1")]
        for address in addresses:
            state = f"{address.service} {address.workflow}".encode()
            await rig.commit(Changes(saved=[rig.saved(address, state)]), address.service)

        states = [await rig.load(address) for address in addresses]

        assert [state[0] for state in states if state] == [b"shop fulfilment", b"shop returns", b"bank fulfilment"]

    @pytest.mark.parametrize("key", KEYS, ids=["empty", "zero", "zero uuid", "quotes", "unicode", "long"])
    @promise()
    async def test_any_text_is_a_key(self, rig: Rig, key: str) -> None:
        """SG-25"""
        address = Address("shop", "fulfilment", key)

        await rig.commit(Changes(saved=[rig.saved(address, b"1")]), "shop")

        assert await rig.load(address) == (b"1", 1, False)
        (status,) = await rig.inspector.instances(key="", done=None, limit=9)
        assert status.address == address

    @promise()
    async def test_many_instances_are_loaded_and_saved_in_one_turn(self, rig: Rig) -> None:
        """SG-19"""
        addresses = [Address("shop", "fulfilment", str(number)) for number in range(300)]
        await rig.commit(Changes(saved=[rig.saved(address, b"1") for address in addresses[:200]]), "shop")
        work = await rig.engine.begin("shop")
        found = await work.load(addresses)

        changed = [rig.saved(a, a.key.encode(), found[a].version if a in found else 0) for a in addresses]
        await work.commit(Changes(saved=changed))

        assert len(found) == 200
        assert await rig.load(addresses[0]) == (b"0", 2, False)
        assert await rig.load(addresses[299]) == (b"299", 1, False)

    @promise()
    async def test_a_turn_that_rolls_back_leaves_nothing(self, rig: Rig) -> None:
        """SG-17, SG-18"""
        work = await rig.engine.begin("shop")
        assert await work.load([ONE]) == {}
        await work.rollback()

        assert await rig.load(ONE) is None
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop")

    @promise()
    async def test_a_part_of_a_turn_can_fail_alone(self, rig: Rig) -> None:
        """P12: a handler that fails takes nothing else of its turn along."""
        work = await rig.engine.begin("shop")
        with pytest.raises(ValueError, match="alone"):
            async with work.savepoint():
                raise ValueError("alone")
        async with work.savepoint() as statements:
            if rig.engine.connection_type is not None:
                assert statements is not None
                assert isinstance(statements.connection, rig.engine.connection_type)
                assert [tuple(row) for row in await statements.execute("SELECT ?, 'a?'", ("b",))] == [("b", "a?")]

        await work.commit(Changes(saved=[rig.saved(ONE, b"1")]))

        assert await rig.load(ONE) == (b"1", 1, False)

    @pytest.mark.parametrize("fault", FAULTS)
    @promise()
    async def test_a_refused_commit_leaves_nothing(self, rig: Rig, fault: str) -> None:
        """CP-05, CP-06, TR-09, OB-04, SG-19: one part of the changes is refused, and all of them are."""
        await rig.engine.declare("shop", ["placed"])
        due = rig.world.now() + rig.lease
        dated = rig.parcel(b"dated", queue="shop", due=due)
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")], parcels=[dated]), "shop")
        await rig.send("shop", b"mine", b"theirs")
        mine, theirs = await rig.receive("shop")
        if fault == "claimed elsewhere" and not rig.features.shared:
            pytest.skip("two may claim what a broker keeps; one of them handles it")
        await rig.commit(Changes(handled=[theirs]), "shop")
        everything = self._everything(rig, mine, Withdrawn(dated.id, due))
        match fault:
            case "version":
                everything.saved.append(rig.saved(ONE, b"2", 7))
            case "second start":
                everything.saved.append(rig.saved(ONE, b"2"))
            case "handled elsewhere":
                everything.handled.append(theirs)
            case "claimed elsewhere":
                everything.claimed.append(theirs)
            case _:
                everything.stashed.append(Stash(ONE, b"stashed", due))

        with pytest.raises(Conflict):
            await rig.commit(everything, "shop")

        assert await rig.waiting("shop") == [b"mine"]
        assert await rig.load(ONE) == (b"1", 1, False)
        assert await rig.load(TWO) is None
        assert await rig.waiting("bank") == []
        assert await rig.engine.reply("request") is None
        assert await rig.inspector.dead_letters(status="", id="", limit=9) == []
        assert await rig.inspector.history(conversation="", after=0, limit=9) == []
        await rig.pass_time(rig.lease * 2)
        await rig.relay()
        assert sorted(await rig.waiting("shop")) == [b"dated", b"mine"]

    def _everything(self, rig: Rig, mine: Delivery, withdrawn: Withdrawn) -> Changes:
        """Changes of every kind, all of them possible."""
        due = rig.world.now() + rig.lease
        return Changes(
            handled=[mine],
            claimed_until=due,
            parcels=[
                rig.parcel(b"command", queue="bank"),
                rig.parcel(b"event", topic="placed"),
                rig.parcel(b"later", queue="shop", due=due),
                rig.parcel(b"reply", reply_to=rig.engine.reply_to("request")),
            ],
            withdrawn=[withdrawn],
            saved=[rig.saved(TWO, b"new")],
            stashed=[Stash(Address("shop", "fulfilment", "3"), b"stashed", due)],
            dead=[rig.letter()],
            history=[Entry("c", rig.world.now(), "shop", "handled", b"mine")],
        )

    @promise()
    async def test_a_stashed_message_comes_back_when_its_instance_begins(self, rig: Rig) -> None:
        until = rig.world.now() + rig.lease
        returns = Address("shop", "returns", "1")
        stashes = [
            Stash(ONE, b"1", until),
            Stash(TWO, b"2", until),
            Stash(returns, b"3", until),
            Stash(ONE, b"4", until),
        ]
        await rig.commit(Changes(stashed=stashes), "shop")
        assert await rig.waiting("shop") == []

        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop")

        assert await rig.waiting("shop") == [b"1", b"4"]
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1", 1)]), "shop")
        assert await rig.waiting("shop") == [b"1", b"4"]

    @promise()
    async def test_nothing_is_stashed_for_an_instance_that_exists(self, rig: Rig) -> None:
        """SG-03: it began while the message was on its way to the stash."""
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop", rig.open())

        with pytest.raises(Conflict):
            await rig.commit(Changes(stashed=[Stash(ONE, b"2", rig.world.now() + rig.lease)]), "shop")

    @promise()
    async def test_a_stash_ends_as_a_dead_letter_with_its_bytes(self, rig: Rig) -> None:
        """SG-29"""
        packet = bytes(range(256))
        await rig.commit(Changes(stashed=[Stash(ONE, packet, rig.world.now() + rig.lease)]), "shop")
        await rig.relay()
        assert await rig.inspector.dead_letters(status="", id="", limit=9) == []

        await rig.pass_time(rig.lease)
        await rig.relay()
        await rig.relay()

        (item,) = await rig.inspector.dead_letters(status="open", id="", limit=9)
        assert (item.letter.packet, item.letter.service, item.letter.key) == (packet, "shop", "1")
        assert "fulfilment" in item.letter.reason
        await rig.commit(Changes(saved=[rig.saved(ONE, b"1")]), "shop")
        assert await rig.waiting("shop") == []
