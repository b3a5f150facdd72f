"""NATS JetStream as a transport. It keeps no state: the broker engine puts a store beside it."""

from outlast.adapters.nats.transport import NatsTransport

__all__ = ["NatsTransport"]
