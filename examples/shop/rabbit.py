"""What only the operator of a RabbitMQ can see and do, with the shop's queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servers.rabbitmq import RabbitMQ

PREFIX = "outlast."
"""What the names of outlast's queues begin with, unless its URL says otherwise."""


def outstanding(broker: RabbitMQ) -> int:
    """How many messages the broker has, those included that it has handed over and that are not acknowledged."""
    return int(
        broker.evaluate(
            "lists:sum([begin {ok, Number, _} = "
            "ra:consistent_query(amqqueue:get_pid(Queue), fun rabbit_fifo:query_messages_total/1), Number end "
            '|| Queue <- rabbit_amqqueue:list(<<"/">>), amqqueue:get_type(Queue) =:= rabbit_quorum_queue])'
        )
    )


def delete_queue(broker: RabbitMQ, service: str) -> None:
    """Deletes a service's queue, whoever consumes from it."""
    broker.delete_queue(f"{PREFIX}{service}")


def is_consumed(broker: RabbitMQ, service: str) -> bool:
    """Whether the service's queue exists, and somebody consumes from it."""
    name = f'rabbit_misc:r(<<"/">>, queue, <<"{PREFIX}{service}">>)'
    found = broker.evaluate(
        f"case rabbit_amqqueue:lookup({name}) of {{ok, Queue}} -> rabbit_amqqueue:consumers(Queue) =/= []; "
        "_ -> false end"
    )
    return found == "true"
