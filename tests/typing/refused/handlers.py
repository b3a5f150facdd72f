"""Wrong handlers. Every marked line is refused by mypy and by pyright, and no other line is.

`provide(Gateway, 5)` passes: both take `type[Gateway]` for a `type[object]`.
"""

from outlast import Command, Context, Event, Retry, Service


class PaymentCompleted(Event):
    order_id: str


class MakePayment(Command[PaymentCompleted], to="payment"):
    order_id: str


class Gateway:
    async def charge(self, order_id: str) -> str:
        return order_id


payment = Service("payment")


@payment.handles
async def wrong_answer(command: MakePayment) -> PaymentCompleted:
    return command  # refused: it says that it returns PaymentCompleted


@payment.handles
async def no_answer(command: MakePayment) -> PaymentCompleted:  # refused: it returns nothing
    print(command.order_id)


@payment.handles
async def wrong_use(command: MakePayment, gateway: Gateway, context: Context) -> None:
    await gateway.charge(command.payment_id)  # refused: no such field
    await gateway.charge(context.attempt)  # refused: an attempt is a number
    await gateway.refund(command.order_id)  # refused: no such method
    context.service = "other"  # refused: a context is read-only


@payment.handles  # refused: there is no message
def nothing() -> None: ...


@payment.handles  # refused: text is no message
async def text(command: str) -> None: ...


@payment.handles(retry=3)  # refused: a policy is a Retry
async def retried(command: MakePayment) -> None: ...


@payment.handles(retry=Retry(tries=3))  # refused: no such parameter
async def tried(command: MakePayment) -> None: ...


@payment.handles(time_limit=60)  # refused: a duration is a timedelta
async def limited(command: MakePayment) -> None: ...


payment.provide("gateway", Gateway)  # refused: a dependency is known by its type
Service("ordering", workflows=[Gateway])  # refused: no workflow
