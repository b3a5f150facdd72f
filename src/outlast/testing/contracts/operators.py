"""What operators see and do: reads that change nothing, and actions that take effect once."""

from __future__ import annotations

from datetime import timedelta

from outlast.ports import Address, Changes, Entry, Stash
from outlast.testing.contracts.rig import Contract, Rig, promise

SECOND = timedelta(seconds=1)


class InspectorContract(Contract):
    """The Inspector port."""

    @promise()
    async def test_queues_are_counted(self, rig: Rig) -> None:
        """TR-34"""
        await rig.engine.declare("shop", ["placed", "paid"])
        await rig.send("shop", b"1", b"2", b"3")
        await rig.claim("shop", await rig.first("shop"))
        due = rig.world.now() + rig.lease
        await rig.commit(Changes(parcels=[rig.parcel(b"4", queue="shop", due=due)], dead=[rig.letter()]), "shop")
        await rig.send("bank", b"1")
        await rig.arrived()

        found = {status.service: status for status in await rig.inspector.queues()}
        bank, shop = found["bank"], found["shop"]

        assert (shop.service, sorted(shop.topics)) == ("shop", ["paid", "placed"])
        # A broker does not tell what of that which waits is being handled.
        assert (shop.waiting, shop.claimed) == ((2, 1) if rig.features.shared else (3, 0))
        assert (shop.dated, shop.dead, shop.workers) == (1, 1, 1)
        assert (bank.service, bank.waiting, bank.workers) == ("bank", 1, 0)

    @promise("shared")
    async def test_the_age_of_a_queue_is_that_of_its_oldest_message(self, rig: Rig) -> None:
        sent_at = rig.world.now()
        await rig.send("shop", rig.packet("c"))
        await rig.pass_time(rig.lease)
        await rig.send("shop", rig.packet("c"))

        (status,) = await rig.inspector.queues()

        assert status.oldest is not None
        assert abs(status.oldest - sent_at) < SECOND

    @promise()
    async def test_instances_are_counted_by_workflow(self, rig: Rig) -> None:
        for number in range(3):
            address = Address("shop", "fulfilment", str(number))
            await rig.commit(Changes(saved=[rig.saved(address, done=number == 0)]), "shop")
        await rig.commit(Changes(saved=[rig.saved(Address("shop", "returns", "1"))]), "shop")

        found = await rig.inspector.workflows()

        counted = {(status.workflow, status.running, status.done) for status in found}
        assert counted == {("fulfilment", 2, 1), ("returns", 1, 0)}

    @promise()
    async def test_instances_are_found_by_key_and_by_being_done(self, rig: Rig) -> None:
        for number in range(3):
            address = Address("shop", "fulfilment", str(number))
            saved = rig.saved(address, b'{"n":%d}' % number, done=number == 1, conversation=f"c{number}")
            await rig.commit(Changes(saved=[saved]), "shop")
            await rig.pass_time(SECOND / 50)

        (one,) = await rig.inspector.instances(key="1", done=None, limit=9)

        assert (one.address.key, one.version, one.done, one.conversation) == ("1", 1, True, "c1")
        assert bytes(one.state) == b'{"n":1}'
        assert [s.address.key for s in await rig.inspector.instances(key="", done=True, limit=9)] == ["1"]
        assert {s.address.key for s in await rig.inspector.instances(key="", done=False, limit=9)} == {"0", "2"}
        assert len(await rig.inspector.instances(key="", done=None, limit=2)) == 2

    @promise()
    async def test_what_began_last_is_listed_first(self, rig: Rig) -> None:
        for number in range(3):
            await rig.commit(Changes(saved=[rig.saved(Address("shop", "fulfilment", str(number)))]), "shop")
            await rig.pass_time(SECOND / 50)
        await rig.commit(Changes(saved=[rig.saved(Address("shop", "fulfilment", "0"), b"{}", 1)]), "shop")

        found = await rig.inspector.instances(key="", done=None, limit=2)

        assert [status.address.key for status in found] == ["2", "1"]
        (changed,) = await rig.inspector.instances(key="0", done=None, limit=2)
        assert changed.started_at < changed.changed_at

    @promise()
    async def test_history_is_told_in_order_and_by_pages(self, rig: Rig) -> None:
        """P19"""
        at = rig.world.now()
        entries = [
            Entry(f"c{number % 2}", at, "shop", "handled", bytes([number]), "fulfilment", "é", f"note {number}")
            for number in range(10)
        ]
        await rig.commit(Changes(history=entries[:6]), "shop")
        await rig.commit(Changes(history=entries[6:]), "shop")

        everything = await rig.inspector.history(conversation="", after=0, limit=99)
        page = await rig.inspector.history(conversation="", after=everything[3][0], limit=4)

        assert [entry for _, entry in everything] == entries
        assert [entry for _, entry in page] == entries[4:8]
        assert len({number for number, _ in everything}) == 10
        of_one = await rig.inspector.history(conversation="c1", after=everything[1][0], limit=3)
        assert [entry for _, entry in of_one] == entries[3:8:2]

    @promise()
    async def test_what_is_on_its_way_is_found_by_its_conversation(self, rig: Rig) -> None:
        await rig.send("shop", rig.packet("claimed"), rig.packet("waiting"), rig.packet("other"))
        await rig.claim("shop", await rig.first("shop"))
        await rig.arrived()
        due = rig.world.now() + rig.lease
        await rig.commit(
            Changes(
                parcels=[rig.parcel(rig.packet("dated"), queue="shop", due=due)],
                stashed=[Stash(Address("shop", "fulfilment", "1"), rig.packet("stashed"), due)],
            ),
            "shop",
        )

        found = {
            name: [
                (item.service, item.is_claimed, item.due is not None, item.stashed_for)
                for item in await rig.inspector.unhandled(conversation=name, scan=99)
            ]
            for name in ("claimed", "waiting", "dated", "stashed", "none")
        }

        assert found == {
            # What is at a broker, nobody can see.
            "claimed": [("shop", True, False, "")] if rig.features.shared else [],
            "waiting": [("shop", False, False, "")] if rig.features.shared else [],
            "dated": [("shop", False, True, "")],
            "stashed": [("shop", False, True, "fulfilment")],
            "none": [],
        }

    @promise()
    async def test_a_dead_letter_is_shown_as_it_was_set_aside(self, rig: Rig) -> None:
        """TR-03, RC-05"""
        letter = rig.letter(
            bytes(range(256)),
            message_id="m",
            type="make-payment",
            key="é",
            conversation="c",
            error="ValueError: no",
            traceback="line 1\nline 2",
            attempts=8,
            host="h",
            version="v",
        )

        await rig.commit(Changes(dead=[letter]), "shop")

        (item,) = await rig.inspector.dead_letters(status="open", id="", limit=9)
        assert (item.letter, item.status) == (letter, "open")

    @promise()
    async def test_dead_letters_are_listed_oldest_first_and_found_by_id(self, rig: Rig) -> None:
        letters = [rig.letter(id=id) for id in ("b1", "a1", "b2", "%")]
        for letter in letters:
            await rig.commit(Changes(dead=[letter]), "shop")

        assert await self._ids(rig) == ["b1", "a1", "b2", "%"]
        assert await self._ids(rig, id="b") == ["b1", "b2"]
        assert await self._ids(rig, id="%") == ["%"]
        assert await self._ids(rig, limit=2) == ["b1", "a1"]
        assert await self._ids(rig, status="retried") == []

    async def _ids(self, rig: Rig, status: str = "", id: str = "", limit: int = 9) -> list[str]:
        return [item.letter.id for item in await rig.inspector.dead_letters(status=status, id=id, limit=limit)]

    @promise()
    async def test_a_dead_letter_is_settled_once(self, rig: Rig) -> None:
        """RC-08: two operators who retry the same letter send it once."""
        letters = [rig.letter(id=id) for id in ("a", "b", "c")]
        await rig.commit(Changes(dead=letters), "shop")
        parcels = {"a": rig.parcel(b"a", queue="shop"), "b": rig.parcel(b"b", queue="shop"), "x": None}

        assert await rig.inspector.settle(parcels, status="retried") == 2
        assert await rig.store.inspector(rig.open()).settle(parcels, status="retried") == 0
        assert await rig.inspector.settle({"b": None, "c": None}, status="archived") == 1

        assert await rig.waiting("shop") == [b"a", b"b"]
        assert await self._ids(rig, status="retried") == ["a", "b"]
        assert await self._ids(rig, status="archived") == ["c"]
        assert await self._ids(rig, status="open") == []

    @promise()
    async def test_what_is_kept_no_longer_is_cleaned_away(self, rig: Rig) -> None:
        """SG-14, P17: and what is kept stays."""
        now = rig.world.now()
        old, kept, running = (Address("shop", "fulfilment", key) for key in ("old", "kept", "running"))
        entries = [Entry("c", at, "shop", "handled", b"1") for at in (now - 2 * SECOND, now)]
        once = rig.parcel(b"1", queue="shop", once=True)
        await rig.commit(Changes(saved=[rig.saved(old, done=True, keep_until=now)], parcels=[once]), "shop")
        await rig.commit(Changes(saved=[rig.saved(kept, done=True, keep_until=now + rig.lease)]), "shop")
        await rig.commit(Changes(saved=[rig.saved(running)], history=entries[:1]), "shop")
        await rig.commit(Changes(history=entries[1:]), "shop")

        removed = await rig.inspector.clean(now, now - SECOND, limit=100)

        assert removed == 2
        assert [await rig.load(address) is None for address in (old, kept, running)] == [True, False, False]
        assert [entry for _, entry in await rig.inspector.history(conversation="", after=0, limit=9)] == entries[1:]
        await rig.commit(Changes(saved=[rig.saved(old, b"again")]), "shop")
        await rig.commit(Changes(parcels=[once]))
        assert await rig.waiting("shop") == [b"1"]

    @promise()
    async def test_history_goes_on_counting_after_it_was_cleaned(self, rig: Rig) -> None:
        """P19: who follows history with `after` misses nothing."""
        now = rig.world.now()
        old, new, newer = (Entry("c", at, "shop", "handled", b"1") for at in (now - SECOND, now, now))
        for entry in (old, new):
            await rig.commit(Changes(history=[entry]), "shop")
        last = (await rig.inspector.history(conversation="", after=0, limit=9))[-1][0]

        await rig.inspector.clean(now, now - SECOND / 2, limit=100)
        await rig.commit(Changes(history=[newer]), "shop")

        assert [entry for _, entry in await rig.inspector.history(conversation="", after=last, limit=9)] == [newer]

    @promise()
    async def test_cleaning_goes_in_steps(self, rig: Rig) -> None:
        """OB-16: no long lock, however much there is."""
        now = rig.world.now()
        addresses = [Address("shop", "fulfilment", str(number)) for number in range(5)]
        saved = [rig.saved(address, done=True, keep_until=now) for address in addresses]
        await rig.commit(Changes(saved=saved), "shop")

        assert [await rig.inspector.clean(now, now - SECOND, limit=2) for _ in range(4)] == [2, 2, 1, 0]

    @promise()
    async def test_an_id_that_was_sent_once_is_forgotten_in_the_end(self, rig: Rig) -> None:
        """P17: within the retention of history a repeated call is harmless; after it the id is new."""
        once = rig.parcel(b"1", queue="shop", once=True)
        await rig.commit(Changes(parcels=[once]))
        forgotten_from = rig.world.now()
        await rig.pass_time(SECOND)
        await rig.commit(Changes(handled=[await rig.first("shop")]), "shop")  # kept longer than the id is

        await rig.inspector.clean(rig.world.now(), forgotten_from, limit=100)
        await rig.commit(Changes(parcels=[once]))

        assert await rig.waiting("shop") == [b"1"]
        assert len(await rig.first_sight("shop", await rig.receive("shop"))) == 1
