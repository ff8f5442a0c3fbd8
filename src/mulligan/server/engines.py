"""How a route gets at the engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from mulligan.engine.engine import Engine


async def _engine(connection: HTTPConnection) -> Engine:
    engine: Engine = connection.app.state.engine
    return engine


EngineDependency = Annotated[Engine, Depends(_engine)]
