"""How a route gets at the engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from mulligan.engine.engine import Engine


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


EngineDependency = Annotated[Engine, Depends(_engine)]
