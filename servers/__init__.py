"""Private PostgreSQL, RabbitMQ and NATS servers, and a faulty network before them: for tests, demo, chaos and bench.

Each server is real, has a port and a directory of its own, and ends with the program that started it.
"""
