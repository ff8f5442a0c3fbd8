"""Which package indexes this host is configured with: what pip, uv and npm would ask.

Nothing of it reaches a VM: the gate (``gate.py``) asks in the VM's place. In order, the first that
says something wins, for each option by itself: uv's variables, uv's files, pip's variables, pip's
files. Without any of them it is uv's own default, and npm's.
"""

from __future__ import annotations

import base64
import configparser
import hashlib
import json
import netrc
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import uv

from mulligan.errors import ConfigError

ASK_TIMEOUT_S = 30
_DEFAULT = re.compile(r"--default-index .*?by default: <(https://[^>\s]+)>", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Source:
    """An index, or a place with a list of links.

    Attributes:
        url: without credentials; ``file://`` for a directory of this host.
        authorization: what goes into the header of that name, to this origin alone.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> tuple[str, str | None, int | None]:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return parts.scheme, parts.hostname, parts.port


@dataclass(frozen=True)
class Sources:
    """Where packages of one language come from.

    Attributes:
        indexes: those that are asked for projects; for npm its registry.
        links: flat lists of files (``--find-links``).
        scopes: npm's registries of scopes, by ``@scope``.
        strategy: uv's index strategy.
        cafile: certificates to trust, in place of the system's.
    """

    indexes: tuple[Source, ...]
    links: tuple[Source, ...] = ()
    scopes: tuple[tuple[str, Source], ...] = ()
    strategy: str = "first-index"
    cafile: str | None = None

    def identity(self) -> str:
        """A name for them that changes with any address, and says nothing of credentials."""
        places: list[object] = [[each.url for each in self.indexes]]
        places += [[each.url for each in self.links], self.strategy]
        places += [[scope, each.url] for scope, each in self.scopes]
        return hashlib.sha256(json.dumps(places).encode()).hexdigest()[:16]


def source(address: str, authorization: str | None = None) -> Source:
    """A source from an address as users write it: a URL, perhaps with credentials, or a path.

    Raises:
        ConfigError: it is neither.
    """
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path) if parts.scheme else address).expanduser().absolute()
        return Source(path.as_uri())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"a package index is configured that is no web address: {parts.scheme}://…",
            remedy="see pip config list, and UV_* in the environment",
        )
    host = parts.netloc.rpartition("@")[2]
    url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if parts.username:
        authorization = _basic(unquote(parts.username), unquote(parts.password or ""))
    return Source(url, authorization or _from_netrc(parts.hostname))


def of_python() -> Sources:
    """What pip and uv on this host are configured with.

    Raises:
        ConfigError: it cannot be understood.
    """
    environment = os.environ
    toml, pip = _uv_files(), _pip()
    named = _named_indexes(toml)
    default = (
        environment.get("UV_DEFAULT_INDEX")
        or environment.get("UV_INDEX_URL")
        or next((url for _, url, is_default in named if is_default), None)
        or toml.get("index-url")
        or pip.get("index-url")
        or _uv_default()
    )
    extra = [
        *environment.get("UV_INDEX", "").split(),
        *environment.get("UV_EXTRA_INDEX_URL", "").split(),
    ]
    extra = extra or [f"{name}={url}" if name else url for name, url, is_ in named if not is_]
    extra = extra or list(toml.get("extra-index-url", [])) or pip.get("extra-index-url", "").split()
    links = environment.get("UV_FIND_LINKS", "").replace(",", " ").split()
    links = links or list(toml.get("find-links", [])) or pip.get("find-links", "").split()
    off = environment.get("UV_NO_INDEX") or toml.get("no-index") or pip.get("no-index")
    none = str(off).lower() in ("1", "true", "yes", "on")
    indexes = [] if none else [_index(str(default)), *map(_index, extra)]
    return Sources(
        indexes=tuple(indexes),
        links=tuple(source(each) for each in links),
        strategy=environment.get("UV_INDEX_STRATEGY")
        or str(toml.get("index-strategy", "first-index")),
        cafile=environment.get("SSL_CERT_FILE") or pip.get("cert"),
    )


def of_npm(npm: list[str]) -> Sources:
    """What npm on this host is configured with.

    Args:
        npm: the command that runs it.

    Raises:
        ConfigError: npm does not say.
    """
    settings = _npmrc()
    given = _npm_variable("registry")
    registry = given or settings.get("registry") or _ask_npm(npm)
    scopes = {
        name.partition(":")[0]: url
        for name, url in settings.items()
        if name.startswith("@") and name.endswith(":registry")
    }
    return Sources(
        indexes=(source(registry, _npm_authorization(registry, settings)),),
        scopes=tuple(
            (scope, source(url, _npm_authorization(url, settings)))
            for scope, url in sorted(scopes.items())
        ),
        cafile=settings.get("cafile") or os.environ.get("SSL_CERT_FILE"),
    )


def _index(text: str) -> Source:
    """An index as uv has it: an address, with a name before it if it has one."""
    name, equals, url = text.partition("=")
    if not equals or "/" in name:
        return source(text)
    variable = "UV_INDEX_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    user = os.environ.get(f"{variable}_USERNAME")
    password = os.environ.get(f"{variable}_PASSWORD")
    return source(url, _basic(user or "", password or "") if user or password else None)


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _from_netrc(host: str) -> str | None:
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        found = netrc.netrc(path).hosts.get(host)
    except (OSError, netrc.NetrcParseError):
        return None  # as for pip and uv
    return _basic(found[0] or "", found[2] or "") if found else None


@cache
def _uv_default() -> str:
    """The index uv asks where nobody says another."""
    said = _output([uv.find_uv_bin(), "pip", "install", "--help"], {"NO_COLOR": "1"})
    found = _DEFAULT.search(said)
    if found is None:
        raise ConfigError(
            "no package index is configured, and uv does not say its own",
            remedy="set UV_DEFAULT_INDEX, or index-url in pip's configuration",
        )
    return found[1]


def _uv_files() -> dict[str, Any]:
    """uv's settings, the user's over the system's."""
    if os.environ.get("UV_NO_CONFIG"):
        return {}
    named = os.environ.get("UV_CONFIG_FILE")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    paths = [Path(named)] if named else [Path("/etc/uv/uv.toml"), home / "uv" / "uv.toml"]
    found: dict[str, Any] = {}
    for path in paths:
        try:
            content = tomllib.loads(path.read_text())
        except (FileNotFoundError, PermissionError):
            continue
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from None
        pip = content.get("pip")
        found |= content | (pip if isinstance(pip, dict) else {})
    return found


def _named_indexes(toml: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """``[[index]]`` of uv's files: name, address, and whether it is the default one."""
    found = toml.get("index", [])
    entries = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return [
        (str(each.get("name", "")), str(each["url"]), each.get("default") is True)
        for each in entries
        if "url" in each
    ]


def _pip() -> dict[str, str]:
    """pip's settings: variables over the files, which come in pip's order."""
    named = os.environ.get("PIP_CONFIG_FILE")
    home = Path.home()
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        config / "pip" / "pip.conf",
        Path(sys.prefix) / "pip.conf",
        *([Path(named)] if named else []),
    ]
    found: dict[str, str] = {}
    for path in [] if named == os.devnull else paths:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            raise ConfigError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    for name, value in os.environ.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


def _npm_variable(name: str) -> str | None:
    """A setting of npm from the environment, where its case does not matter."""
    wanted = f"npm_config_{name}"
    return next((value for key, value in os.environ.items() if key.lower() == wanted), None)


def _npmrc() -> dict[str, str]:
    """npm's settings of its files, the user's over the system's."""
    user = _npm_variable("userconfig")
    shared = _npm_variable("globalconfig") or "/etc/npmrc"
    found: dict[str, str] = {}
    for path in (Path(shared), Path(user or "~/.npmrc").expanduser()):
        try:
            lines = path.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            continue  # npm passes over it, too
        for line in lines:
            name, equals, value = line.partition("=")
            if equals and not line.lstrip().startswith((";", "#")):
                value = value.strip().strip("\"'")
                found[name.strip()] = _VARIABLE.sub(
                    lambda match: os.environ.get(match[1], ""), value
                )
    return found


def _npm_authorization(registry: str, settings: dict[str, str]) -> str | None:
    """What npm would send to a registry: settings of the longest address that covers it."""
    rest = "//" + registry.partition("://")[2]
    place = rest if rest.endswith("/") else rest + "/"
    while place.count("/") > 2:  # noqa: PLR2004  (two of them are the beginning)
        token, basic = settings.get(f"{place}:_authToken"), settings.get(f"{place}:_auth")
        user, password = settings.get(f"{place}:username"), settings.get(f"{place}:_password")
        if token:
            return f"Bearer {token}"
        if basic:
            return f"Basic {basic}"
        if user and password:
            return _basic(user, base64.b64decode(password).decode(errors="replace"))
        place = place.rstrip("/").rpartition("/")[0] + "/"
    return None


def _ask_npm(npm: list[str]) -> str:
    said = _output([*npm, "config", "get", "registry"], {}).strip().splitlines()
    if not said or "://" not in said[-1]:
        raise ConfigError(
            "npm does not say which registry it asks", remedy="see npm config get registry"
        )
    return said[-1]


def _output(command: list[str], more: dict[str, str]) -> str:
    """What a program of this host prints."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_TIMEOUT_S,
            env={**os.environ, **more},
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"cannot ask {Path(command[0]).name}: {error}") from None
    return done.stdout
