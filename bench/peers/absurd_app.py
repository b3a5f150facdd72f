"""The order workflow on Absurd, durable execution on PostgreSQL alone; one worker per call.

`services`: the workflow and its two services are workers on queues of their own; the workflow spawns a task in the
other's queue and sleeps until its event. `steps`: payment and label are steps inside the workflow's own task, done by
whichever of two workers has it: faster, but with no boundary between the services.
"""

import asyncio
import os
import sys

from absurd_sdk import AsyncAbsurd

queue = sys.argv[1]
app = AsyncAbsurd(os.environ["BENCH_PEER_URL"], queue_name=queue)


async def make_payment(order_id: str) -> dict[str, str]:
    return {"order_id": order_id, "payment_id": f"pay-{order_id[:8]}"}


async def create_label(order_id: str) -> dict[str, str]:
    return {"order_id": order_id, "label": f"label-{order_id[:8]}"}


if queue == "steps":

    @app.register_task(name="order")
    async def order_by_steps(params, context):
        payment = await context.step("payment", lambda: make_payment(params["order_id"]))
        return await context.step("label", lambda: create_label(payment["order_id"]))


if queue == "ordering":

    @app.register_task(name="order")
    async def order_by_services(params, context):
        async def ask(service: str) -> str:
            await app.spawn(service, params, queue=service, idempotency_key=f"{service}-{params['order_id']}")
            return service

        await context.step("ask payment", lambda: ask("payment"))
        payment = await context.await_event(f"paid-{params['order_id']}")
        await context.step("ask warehouse", lambda: ask("warehouse"))
        return await context.await_event(f"labelled-{payment['order_id']}")


if queue == "payment":

    @app.register_task(name="payment")
    async def payment(params, _context):
        answer = await make_payment(params["order_id"])
        await app.emit_event(f"paid-{params['order_id']}", answer, queue_name="ordering")


if queue == "warehouse":

    @app.register_task(name="warehouse")
    async def warehouse(params, _context):
        answer = await create_label(params["order_id"])
        await app.emit_event(f"labelled-{params['order_id']}", answer, queue_name="ordering")


# What was fastest of 0.02, 0.05 and the default of 0.25: steps seldom wait, services wait at every hop.
poll_interval = 0.25 if queue == "steps" else 0.02
asyncio.run(app.start_worker(concurrency=20, claim_timeout=30, poll_interval=poll_interval))
