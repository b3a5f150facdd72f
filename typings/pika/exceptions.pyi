class AMQPError(Exception): ...

class ConnectionClosed(AMQPError):
    reply_code: int
    reply_text: str

class ChannelClosed(AMQPError):
    reply_code: int
    reply_text: str
