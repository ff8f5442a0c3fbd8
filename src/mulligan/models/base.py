"""What all structs have in common: their kinds of fields, and what is unknown to them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
)


def _number(value: object) -> object:
    """JSON has one kind of number, so 1 is a float too; true and "1" are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")  # noqa: TRY004  (pydantic reads ValueError)
    return value


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _rfc3339(value: object) -> object:
    """A time is a text of RFC 3339 with its offset, not a number of seconds."""
    if isinstance(value, datetime) or (isinstance(value, str) and _RFC3339.fullmatch(value)):
        return value
    raise ValueError("must be an RFC 3339 time with an offset, such as 2025-01-02T03:04:05Z")


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


U32 = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[StrictInt, Field(ge=0, le=2**64 - 1)]
I32 = Annotated[StrictInt, Field(ge=-(2**31), le=2**31 - 1)]
F64 = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
UtcTime = Annotated[AwareDatetime, BeforeValidator(_rfc3339), AfterValidator(_utc)]


def utc_now() -> datetime:
    """The present, in the form the models hold times."""
    return datetime.now(UTC)


class Struct(BaseModel):
    """What is read: unknown fields are passed over, so that a newer server can add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Request(BaseModel):
    """What is asked: an unknown field is a mistake the asker wants to hear of."""

    model_config = ConfigDict(frozen=True, extra="forbid")
