"""What we use of pika, which has no types of its own. Nothing else of it is relied on."""

import ssl

class SSLOptions:
    def __init__(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None: ...

class PlainCredentials:
    def __init__(self, username: str, password: str) -> None: ...

class ConnectionParameters:
    frame_max: int
    def __init__(
        self,
        *,
        host: str,
        port: int,
        virtual_host: str,
        credentials: PlainCredentials,
        heartbeat: int,
        ssl_options: SSLOptions | None,
        socket_timeout: float,
        stack_timeout: float,
        client_properties: dict[str, str],
    ) -> None: ...
