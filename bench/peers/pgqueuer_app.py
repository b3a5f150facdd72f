"""The order workflow as a chain of PgQueuer jobs, three workers, the finished order marked in the same PostgreSQL.

Of the peers that need nothing but PostgreSQL it was the fastest with the services apart. It keeps no workflow state:
no query, no compensation, no timers. All its tables are logged. One worker per call.
"""

import json
import os
import sys

import asyncpg
import uvloop
from pgqueuer import AsyncpgPoolDriver, Job, PgQueuer, Queries


async def main(service: str) -> None:
    pool = await asyncpg.create_pool(os.environ["BENCH_PEER_URL"], min_size=4, max_size=10)
    driver = AsyncpgPoolDriver(pool)
    app, queries = PgQueuer(driver), Queries(driver)

    async def make_payment(job: Job) -> None:
        order_id = job.payload.decode()
        payment = {"order_id": order_id, "payment_id": f"pay-{order_id[:8]}"}
        await queries.enqueue("warehouse", json.dumps(payment).encode())

    async def create_label(job: Job) -> None:
        order_id = json.loads(job.payload)["order_id"]
        label = {"order_id": order_id, "label": f"label-{order_id[:8]}"}
        await queries.enqueue("ordering", json.dumps(label).encode())

    async def finish(job: Job) -> None:
        order_id = json.loads(job.payload)["order_id"]
        await pool.execute("UPDATE orders SET done = true WHERE id = $1", order_id)

    app.entrypoint(service)({"payment": make_payment, "warehouse": create_label, "ordering": finish}[service])
    await app.run(batch_size=50)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
