from collections.abc import Callable
from typing import Any

class Channel:
    channel_number: int
    def add_on_close_callback(self, callback: Callable[[Any, Exception], None]) -> None: ...
    def close(self) -> None: ...
