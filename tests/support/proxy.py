"""A proxy on loopback whose connections can be cut."""

import asyncio
from urllib.parse import urlsplit


class Proxy:
    """Passes connections on to a server until they are cut. Use as an async context manager."""

    def __init__(self, url: str) -> None:
        there = urlsplit(url)
        self._there = (there.hostname, there.port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.requests: list[str] = []

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Ends all connections there are, in the middle of whatever they carry."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there_reader, there_writer = await asyncio.open_connection(*self._there)
        ends = {writer, there_writer}
        self._writers |= ends
        try:
            await asyncio.gather(
                self._pass(reader, there_writer, note=True), self._pass(there_reader, writer)
            )
        except ConnectionError:
            return
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, note: bool = False
    ) -> None:
        while data := await source.read(65536):
            if note and data.startswith((b"GET ", b"POST ")):
                self.requests.append(data.split(b" HTTP/", 1)[0].decode())
            target.write(data)
            await target.drain()
        raise ConnectionResetError
