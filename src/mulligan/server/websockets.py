"""uvicorn's WebSockets, where a handshake that cannot be read is answered, too."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from mulligan.errors import ValidationFailed
from mulligan.models import ErrorAnswer


class WebSockets(WebSocketsSansIOProtocol):
    """As the base class, which would have such a client wait for ever.

    What ``websockets`` reads no request from is one with a body, with a line over 8 KiB, or with
    more than 128 headers.
    """

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        super().data_received(data)
        error = self.conn.handshake_exc
        if error is None or self.handshake_initiated or self.transport.is_closing():
            return
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        said = ErrorAnswer.of(
            ValidationFailed(
                f"the handshake of a WebSocket cannot be read: {reason}",
                remedy="send a GET without a body, with an address of up to 8 KiB",
            )
        )
        body = said.model_dump_json().encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
