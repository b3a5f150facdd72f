"""Wrong tests. Every marked line is refused by mypy and by pyright, and no other line is."""

from datetime import timedelta

from outlast import Command, Event, Workflow, starts
from outlast.testing import Scenario


class OrderPlaced(Event):
    order_id: str


class MakePayment(Command[None], to="payment"):
    order_id: str


class Fulfilment(Workflow, key="order_id"):
    paid_by: str | None = None

    @starts
    def placed(self, event: OrderPlaced) -> MakePayment:
        return MakePayment(order_id=event.order_id)


Scenario(OrderPlaced)  # refused: no workflow
Scenario("fulfilment")  # refused: no workflow
scenario = Scenario(Fulfilment)
scenario.when(OrderPlaced)  # refused: a class is no message
scenario.when("OrderPlaced")  # refused: text is no message
scenario.sends("MakePayment")  # refused: text is no message
scenario.sends(Fulfilment)  # refused: a workflow is no message
scenario.fails(OrderPlaced, reason="no")  # refused: an event does not fail
scenario.advance(3)  # refused: a duration is a timedelta
scenario.advance(timedelta(1)).sent_nothing()  # refused: no such step
scenario.waits(5)  # refused: a timer has a name
print(scenario.workflow.payment_id)  # refused: no such field
other: Scenario[Workflow] = scenario  # refused: of another workflow
