"""The transport on RabbitMQ: quorum queues, publisher confirms, manual acknowledgements. Needs `outlast[rabbitmq]`."""

from outlast.adapters.rabbitmq.settings import Settings, read
from outlast.adapters.rabbitmq.topology import Piece, make, topology
from outlast.adapters.rabbitmq.transport import RabbitMQTransport

__all__ = ["Piece", "RabbitMQTransport", "Settings", "make", "read", "topology"]
