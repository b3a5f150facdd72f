from collections.abc import Callable, Mapping
from typing import Any

from pika import ConnectionParameters
from pika.channel import Channel
from pika.frame import Frame

class AsyncioConnection:
    """The members with an underscore are pika's own hooks for adapters, which `wire.py` uses as an adapter does."""

    bytes_received: int
    params: ConnectionParameters
    server_properties: Mapping[str, object] | None
    _frame_buffer: bytes
    _transport: object | None
    _connection_workflow: Any

    def __init__(
        self,
        parameters: ConnectionParameters,
        *,
        on_open_callback: Callable[[Any], None],
        on_open_error_callback: Callable[[Any, BaseException], None],
        on_close_callback: Callable[[Any, Exception], None],
    ) -> None: ...
    @property
    def is_open(self) -> bool: ...
    @property
    def is_closed(self) -> bool: ...
    def channel(self, *, on_open_callback: Callable[[Channel], None]) -> Channel: ...
    def close(self) -> None: ...
    def add_on_connection_blocked_callback(self, callback: Callable[[Any, Any], None]) -> None: ...
    def add_on_connection_unblocked_callback(self, callback: Callable[[Any, Any], None]) -> None: ...
    def _adapter_emit_data(self, data: bytes) -> None: ...
    def _on_data_available(self, data_in: bytes) -> None: ...
    def _process_frame(self, frame_value: Frame | None) -> None: ...
    def _terminate_stream(self, error: Exception | None) -> None: ...
