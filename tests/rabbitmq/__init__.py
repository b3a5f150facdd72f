"""The transport on RabbitMQ, on real servers: what it promises, and what faults make of it."""
