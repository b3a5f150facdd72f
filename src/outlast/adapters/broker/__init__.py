"""The engine of a broker and a store: queues in the one, state, dates, inbox and outbox in the other.

A turn commits in the store: the inbox entry of what it handled, its states, and one outbox row with all that it
sends. Then it acknowledges to the broker, and the postman takes the row there. A crash after the commit leaves the
row, which another process takes; a crash before the acknowledgement makes the broker hand over a message that the
inbox knows.
"""

from outlast.adapters.broker.engine import BrokerEngine
from outlast.adapters.broker.inspector import BrokerInspector

__all__ = ["BrokerEngine", "BrokerInspector"]
