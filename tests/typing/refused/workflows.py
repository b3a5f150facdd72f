"""Wrong workflows. Every marked line is refused by mypy and by pyright, and no other line is."""

from collections.abc import Iterator
from datetime import timedelta

from outlast import Command, Event, Failed, Workflow, on, starts


class OrderPlaced(Event):
    order_id: str


class PaymentCompleted(Event):
    order_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str


class RefundPayment(Command[None], to="payment"):
    order_id: str


class Returns(Workflow, key="order_id"):
    paid_by: str | None = None

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        return RefundPayment(order_id=event.order_id)  # refused: it says that it sends MakePayment

    @on
    def paid(self, event: PaymentCompleted) -> None:
        return MakePayment(order_id=self.key)  # refused: it says that it sends nothing

    @on
    def failed(self, event: Failed[MakePayment]) -> Iterator[RefundPayment]:
        yield RefundPayment(order_id=event.command.order_id)
        yield event.command  # refused: it says that it sends refunds
        print(event.command.amount)  # refused: no such field


class Starts(Workflow, key="order_id"):
    @starts  # refused: a workflow begins with an event
    def placed(self, command: MakePayment) -> None: ...

    @starts()  # refused: a workflow begins with an event
    def again(self, command: RefundPayment) -> None: ...


class On(Workflow, key="order_id"):
    @on  # refused: there is no message
    def nothing(self) -> None: ...

    @on  # refused: text is no message
    def text(self, event: str) -> None: ...

    @on  # refused: more than a message
    def more(self, event: PaymentCompleted, now: float) -> None: ...

    @on  # refused: text is no message
    def sends_text(self, event: PaymentCompleted) -> str:
        return event.order_id

    @on  # refused: a workflow does not wait
    async def waits(self, event: OrderPlaced) -> MakePayment:
        return MakePayment(order_id=event.order_id)

    @on(key=5)  # refused: a key is a field's name or a function
    def keyed(self, event: PaymentCompleted) -> None: ...


class State(Workflow, key="order_id", keep=30):  # refused: a duration is a timedelta
    count: int = 0
    total: int = "0"  # refused: the wrong type

    @starts
    def placed(self, event: OrderPlaced) -> None:
        self.count = event.order_id  # refused: the wrong type
        print(self.cuont)  # refused: no such field
        self.now = None  # refused: the time is given
        self.after(24, event)  # refused: a duration is a timedelta
        self.after(timedelta(hours=24), "overdue")  # refused: text is no message
        self.cancel(5)  # refused: a timer has a name


class Unknown(Workflow, keys="order_id"):  # refused: no such keyword
    pass
