"""Three systems to be disturbed: orders, a fan-in of five parts, and an answer that races a timer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from outlast import Command, Context, Event, Failed, Retry, Service, Workflow, on, starts
from outlast.testing.simulation import Effects, Simulation


class OrderPlaced(Event):
    order_id: str
    total: Decimal


class PaymentCompleted(Event):
    order_id: str
    payment_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str
    amount: Decimal


class LabelCreated(Event):
    order_id: str


class CreateLabel(Command[LabelCreated], to="warehouse"):
    order_id: str


class PaymentOverdue(Event):
    order_id: str


class Refunded(Event):
    order_id: str


class Refund(Command[Refunded], to="payment"):
    order_id: str


class Fulfilment(Workflow, key="order_id"):
    payment_id: str | None = None
    overdue: bool = False
    events: int = 0

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        self.events += 1
        self.after(timedelta(days=2), PaymentOverdue(order_id=event.order_id))
        return MakePayment(order_id=event.order_id, amount=event.total)

    @on
    def paid(self, event: PaymentCompleted) -> CreateLabel:
        self.events += 1
        self.payment_id = event.payment_id
        self.cancel(PaymentOverdue)
        return CreateLabel(order_id=event.order_id)

    @on
    def late(self, event: PaymentOverdue) -> None:
        self.overdue = True

    @on
    def shipped(self, event: LabelCreated) -> None:
        self.events += 1
        self.complete()

    @on
    def cannot_ship(self, event: Failed[CreateLabel]) -> Refund:
        return Refund(order_id=self.key)

    @on
    def cannot_pay(self, event: Failed[MakePayment]) -> None:
        self.complete()

    @on
    def refunded(self, event: Refunded) -> None:
        self.complete()


@dataclass
class Outside:
    """The world beyond the services: a ledger, and orders that it refuses."""

    effects: Effects
    refused: frozenset[str] = frozenset()


ordering = Service("ordering", workflows=[Fulfilment])
payment = Service("payment", retry=Retry(immediate=1, delayed=8))
warehouse = Service("warehouse", retry=Retry(immediate=1, delayed=8))


@payment.handles
async def make_payment(command: MakePayment, outside: Outside, context: Context) -> PaymentCompleted:
    await asyncio.sleep(0.01)
    outside.effects.record("charge", command.order_id, idempotency_key=context.idempotency_key)
    return PaymentCompleted(order_id=command.order_id, payment_id=f"payment-{command.order_id}")


@payment.handles
async def refund(command: Refund, outside: Outside, context: Context) -> Refunded:
    outside.effects.record("refund", command.order_id, idempotency_key=context.idempotency_key)
    return Refunded(order_id=command.order_id)


@warehouse.handles(retry=Retry(immediate=1, delayed=8, give_up_on=(ValueError,)))
async def create_label(command: CreateLabel, outside: Outside, context: Context) -> LabelCreated:
    if command.order_id in outside.refused:
        raise ValueError(f"no such address: {command.order_id}")
    outside.effects.record("label", command.order_id, idempotency_key=context.idempotency_key)
    return LabelCreated(order_id=command.order_id)


ORDERS = [ordering, payment, warehouse]


def orders(sim: Simulation, *ids: str, refused: frozenset[str] = frozenset()) -> None:
    """Places orders; each must be paid once, shipped once or refunded, and end."""
    sim.override(Outside, Outside(sim.effects, refused))
    ids = ids or ("a",)
    for order_id in ids:
        sim.publish(OrderPlaced(order_id=order_id, total=Decimal("9.50")))
    sim.run_until_quiet()
    for order_id in ids:
        check_order(sim, order_id, is_refused=order_id in refused)


def check_order(sim: Simulation, order_id: str, *, is_refused: bool) -> None:
    """What must hold of one order when everything is quiet."""
    dead = {letter.type for letter in sim.dead_letters if letter.key == order_id}
    charged, labelled, refunded = (sim.effects.count(what, order_id) for what in ("charge", "label", "refund"))
    # What died with its process five times is set aside, and nobody knows how far it had come.
    assert max(charged, labelled, refunded) <= 1, f"order {order_id}: {charged}, {labelled}, {refunded} effects"
    if dead - {"make-payment", "create-label"}:
        assert sim.crashes >= 5, f"order {order_id} has dead letters: {dead}"
        return
    assert sim.is_done(Fulfilment, order_id), f"order {order_id} never ended"
    assert charged == 1 or (charged == 0 and "make-payment" in dead), f"order {order_id} was charged {charged} times"
    if "make-payment" in dead:
        assert labelled == refunded == 0, f"order {order_id} went on though its payment was set aside"
    elif "create-label" in dead:
        assert refunded == 1, f"order {order_id} was not refunded"
    else:
        assert (labelled, refunded) == (1, 0), f"order {order_id}: {labelled} labels and {refunded} refunds"
    if sim.crashes < 5:
        assert dead == ({"create-label"} if is_refused else set()), f"order {order_id} has dead letters: {dead}"


class PartsOrdered(Event):
    build_id: str
    parts: int


class PartMade(Event):
    build_id: str
    number: int


class MakePart(Command[PartMade], to="factory"):
    build_id: str
    number: int


class Built(Event):
    build_id: str


class Assembly(Workflow, key="build_id"):
    wanted: int = 0
    made: list[int] = []

    @starts
    def ordered(self, event: PartsOrdered) -> list[MakePart]:
        self.wanted = event.parts
        return [MakePart(build_id=event.build_id, number=number) for number in range(event.parts)]

    @on
    def part(self, event: PartMade) -> Built | None:
        self.made = [*self.made, event.number]
        if len(self.made) < self.wanted:
            return None
        self.complete()
        return Built(build_id=self.key)


assembly = Service("assembly", workflows=[Assembly])
factory = Service("factory", retry=Retry(immediate=1, delayed=8))
shop = Service("shop", retry=Retry(immediate=1, delayed=8))


@factory.handles
async def make_part(command: MakePart, outside: Outside, context: Context) -> PartMade:
    subject = f"{command.build_id}/{command.number}"
    outside.effects.record("part", subject, idempotency_key=context.idempotency_key)
    return PartMade(build_id=command.build_id, number=command.number)


@shop.handles
async def sell(event: Built, outside: Outside, context: Context) -> None:
    outside.effects.record("built", event.build_id, idempotency_key=context.idempotency_key)


FAN_IN = [assembly, factory, shop]


def fan_in(sim: Simulation, *, parts: int = 5) -> None:
    """Five parts of one whole are made by several workers; none is lost, none counts twice."""
    sim.override(Outside, Outside(sim.effects))
    sim.publish(PartsOrdered(build_id="a", parts=parts))
    sim.run_until_quiet()
    if sim.dead_letters:
        assert sim.crashes >= 5, f"{len(sim.dead_letters)} dead letters"
        return
    state = sim.instance(Assembly, "a")
    assert state is not None
    assert sorted(state.made) == list(range(parts)), f"made {state.made}"
    assert sim.effects.count("built", "a") == 1, f"built {sim.effects.count('built', 'a')} times"


class QuestionAsked(Event):
    question_id: str


class Answered(Event):
    question_id: str


class Answer(Command[Answered], to="oracle"):
    question_id: str


class TimeIsUp(Event):
    question_id: str


class Closed(Event):
    question_id: str
    how: str


class Question(Workflow, key="question_id"):
    rounds: int = 0

    @starts
    def asked(self, event: QuestionAsked) -> Answer:
        self.after(timedelta(seconds=10), TimeIsUp(question_id=event.question_id), name="deadline")
        self.after(timedelta(seconds=30), TimeIsUp(question_id=event.question_id), name="deadline")
        self.after(timedelta(seconds=5), TimeIsUp(question_id=event.question_id), name="unwanted")
        self.cancel("unwanted")
        return Answer(question_id=event.question_id)

    @on
    def answered(self, event: Answered) -> Closed:
        self.complete()
        return Closed(question_id=self.key, how="answered")

    @on
    def late(self, event: TimeIsUp) -> Closed:
        assert "deadline" not in self.timers
        self.complete()
        return Closed(question_id=self.key, how="in time" if self.rounds else "too late")


questions = Service("questions", workflows=[Question])
oracle = Service("oracle", retry=Retry(immediate=1, delayed=3))
audience = Service("audience", retry=Retry(immediate=1, delayed=8))


@oracle.handles
async def answer(command: Answer, context: Context) -> Answered:
    await asyncio.sleep(30)
    return Answered(question_id=command.question_id)


@audience.handles
async def hear(event: Closed, outside: Outside, context: Context) -> None:
    outside.effects.record("closed", event.question_id, idempotency_key=context.idempotency_key)


TIMER_RACE = [questions, oracle, audience]


def timer_race(sim: Simulation) -> None:
    """An answer and a timer are due at the same time; one of them closes the question, never both."""
    sim.override(Outside, Outside(sim.effects))
    sim.publish(QuestionAsked(question_id="a"))
    sim.publish(QuestionAsked(question_id="a"))
    sim.run_until_quiet()
    if not sim.dead_letters:
        assert sim.is_done(Question, "a")
        assert sim.effects.count("closed", "a") == 1, f"closed {sim.effects.count('closed', 'a')} times"


def timer_against_answer(sim: Simulation) -> None:
    """The race of `timer_race` alone: both are dated for the same instant, and what came before is over."""
    sim.override(Outside, Outside(sim.effects))
    with sim.in_order():
        sim.publish(QuestionAsked(question_id="a"))
        sim.run(timedelta(seconds=29))
    sim.run_until_quiet()
    assert sim.is_done(Question, "a")
    assert sim.effects.count("closed", "a") == 1, f"closed {sim.effects.count('closed', 'a')} times"


def asked_twice(sim: Simulation) -> None:
    """Two messages that begin the same instance; only one of them does."""
    sim.override(Outside, Outside(sim.effects))
    sim.publish(QuestionAsked(question_id="a"))
    sim.publish(QuestionAsked(question_id="a"))
    sim.run(timedelta(seconds=29))
    with sim.in_order():
        sim.run_until_quiet()
    assert sim.is_done(Question, "a")
    assert sim.effects.count("closed", "a") == 1, f"closed {sim.effects.count('closed', 'a')} times"


def poison(sim: Simulation) -> None:
    """One order in a batch cannot be read, and one fails for ever; the others do not notice."""
    sim.override(Outside, Outside(sim.effects, frozenset("c")))
    for order_id in "abcd":
        sim.publish(OrderPlaced(order_id=order_id, total=Decimal(1)))
    sim.send(Garbled(noise=1))
    sim.run_until_quiet()
    for order_id in "abcd":
        check_order(sim, order_id, is_refused=order_id == "c")
    if not sim.tape.faults:
        assert not sim.seen["message retried"], "the others in the batch noticed"
    if sim.crashes < 5:
        assert sorted(letter.type for letter in sim.dead_letters) == ["create-label", "make-payment"]


class Garbled(Command[None], name="make-payment", to="payment"):
    """Has the wire name of a payment, and not its fields."""

    noise: int


def too_early(sim: Simulation) -> None:
    """A payment arrives before its order; it waits for it, also within one batch."""
    sim.override(Outside, Outside(sim.effects))
    sim.publish(PaymentCompleted(order_id="a", payment_id="early"))
    sim.run(timedelta(minutes=1))
    sim.do(
        sim.client.send_all(
            OrderPlaced(order_id="a", total=Decimal(1)),
            PaymentCompleted(order_id="b", payment_id="early"),
            OrderPlaced(order_id="b", total=Decimal(1)),
        )
    )
    sim.run_until_quiet()
    if sim.dead_letters:
        assert sim.crashes >= 5, f"{[letter.reason for letter in sim.dead_letters]}"
        return
    for order_id in "ab":
        state = sim.instance(Fulfilment, order_id)
        assert state is not None
        assert state.payment_id is not None
        assert sim.is_done(Fulfilment, order_id), f"order {order_id} never ended"


def repeated(sim: Simulation) -> None:
    """Everything that comes from outside comes twice, and an order that has ended is placed again."""
    sim.override(Outside, Outside(sim.effects))
    order = OrderPlaced(order_id="a", total=Decimal(1))
    sim.publish(order, id="order a")
    sim.publish(order, id="order a")
    sim.publish(order)
    sim.run_until_quiet()
    sim.publish(order)
    sim.publish(PaymentCompleted(order_id="a", payment_id="late"))
    sim.run_until_quiet()
    check_order(sim, "a", is_refused=False)


def away(sim: Simulation) -> None:
    """The warehouse is away for three days, and its work waits for it; the payment was in time."""
    sim.override(Outside, Outside(sim.effects))
    sim.down("warehouse", for_=timedelta(days=3))
    sim.publish(OrderPlaced(order_id="a", total=Decimal(1)))
    sim.run_until_quiet()
    check_order(sim, "a", is_refused=False)
    state = sim.instance(Fulfilment, "a")
    assert state is not None
    assert not state.overdue or sim.dead_letters
