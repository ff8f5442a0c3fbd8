"""Sets of packages, as they are kept and shown."""

from __future__ import annotations

from pydantic import Field, StrictBool, StrictStr

from mulligan.models.base import U64, Request, Struct, UtcTime


class Package(Struct):
    """One package of a set: its exact version, and hashes of what it may be installed from.

    Hashes are ``sha256:…`` in hex for Python, ``sha512-…`` in base64 for npm.
    """

    name: StrictStr
    version: StrictStr
    hashes: list[StrictStr] = Field(default_factory=list)


class PackageSet(Struct):
    """Packages that executions may have together.

    ``requirements`` are those it was first made for. ``key`` is made of ``language``,
    ``interpreter`` (its version and the platform), ``index`` (a digest of the addresses asked),
    ``builds`` (whether code of packages ran to make it) and ``packages``; ``requests`` are keys of
    what was asked for.
    """

    id: StrictStr
    language: StrictStr
    requirements: list[StrictStr]
    packages: list[Package]
    size_bytes: U64
    created_at: UtcTime
    last_used_at: UtcTime | None = None
    interpreter: StrictStr
    index: StrictStr
    builds: StrictBool = False
    key: StrictStr
    requests: list[StrictStr] = Field(default_factory=list)

    def pins(self) -> list[str]:
        """Each package with its version, as its language writes that."""
        between = "==" if self.language == "python" else "@"
        return [f"{each.name}{between}{each.version}" for each in self.packages]


class WarmRequest(Request):
    """Have a set made before anybody needs it; with ``refresh`` from what the index has now."""

    requirements: list[StrictStr]
    language: StrictStr = "python"
    refresh: StrictBool = False
