"""Measures Dramatiq: three workers, a client that places orders from four threads. Prints one line of JSON.

`python dramatiq_run.py amqp://… postgresql://… ORDERS`, in a virtual environment of its own
(dramatiq_requirements.txt).
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

HERE = Path(__file__).parent
QUEUES = ("bench-orders", "bench-payment", "bench-warehouse")


def main(amqp: str, postgres: str, orders: int) -> None:
    sys.path.insert(0, str(HERE))
    os.environ |= {"BENCH_AMQP_URL": amqp, "BENCH_POSTGRES_URL": postgres}
    connection = psycopg.connect(postgres, autocommit=True)
    connection.execute("DROP TABLE IF EXISTS bench_orders")
    connection.execute("CREATE TABLE bench_orders (id text PRIMARY KEY, done boolean NOT NULL DEFAULT false)")
    dramatiq = Path(sys.executable).with_name("dramatiq")
    workers = [
        subprocess.Popen(
            [dramatiq, "dramatiq_app", "-p", "1", "-t", "8", "-Q", queue], cwd=HERE, stderr=subprocess.DEVNULL
        )
        for queue in QUEUES
    ]
    try:
        import dramatiq_app

        def finished() -> int:
            return connection.execute("SELECT count(*) FROM bench_orders WHERE done").fetchone()[0]

        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(dramatiq_app.place, [str(uuid.uuid4()) for _ in range(100)]):
                pass
            while finished() < 100:
                time.sleep(0.05)
            begin = time.perf_counter()
            for _ in pool.map(dramatiq_app.place, [str(uuid.uuid4()) for _ in range(orders)]):
                pass
            while finished() < 100 + orders:
                time.sleep(0.02)
            rate = orders / (time.perf_counter() - begin)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
        connection.execute("DROP TABLE bench_orders")
    figures = {
        "peer": "dramatiq",
        "orders_per_second": round(rate),
        "orders": orders,
        "topology": "services",
        "postgres": connection.execute("SHOW server_version").fetchone()[0],
        "dramatiq": importlib.metadata.version("dramatiq"),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
