"""Names and calls of a library, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.events import Call
from mulligan.policy.dangerous.program import fold, ir
from mulligan.policy.dangerous.program.value import Val, unknown
from mulligan.policy.dangerous.values import HOME, NO_TAGS, UNKNOWN, Text

if TYPE_CHECKING:
    from mulligan.policy.dangerous.findings import Place
    from mulligan.policy.dangerous.program.evaluate import Follower

# Modules whose functions are commands.
_COMMANDS: Final = "sh."
# What says nothing about its arguments.
_FORGETS: Final = frozenset({
    "len", "print", "isinstance", "type", "id", "hash", "bool", "console.log", "range", "callable",
    "hasattr", "issubclass", "logging.info",
})  # fmt: skip
_CONSTANTS: Final = {"os.sep": "/", "os.path.sep": "/", "path.sep": "/", "os.devnull": "/dev/null",
                     "path.posix.sep": "/", "os.curdir": "."}  # fmt: skip
_TAGS: Final = {
    "os.environ": frozenset({"environment"}),
    "process.env": frozenset({"environment"}),
    "flask.request": frozenset({"network", "socket"}),
}
_LONGEST_REF: Final = 160


@dataclass(slots=True)
class Called:
    """One call: of what, on what, with what."""

    follower: Follower
    node: ir.Call
    name: str
    function: Val
    receiver: Val | None
    arguments: list[Val]
    keywords: dict[str, Val]

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.follower.place(self.node.at)

    def argument(self, at: int, keyword: str = "") -> Val | None:
        """An argument by place or name."""
        if at < len(self.arguments):
            return self.arguments[at]
        return self.keywords.get(keyword)

    def tags(self) -> frozenset[str]:
        """The tags of all it gets."""
        tags = NO_TAGS
        for value in (*self.arguments, *self.keywords.values()):
            tags |= value.all_tags()
        return tags

    def effect(self, kind: str, path: str = "", **more: frozenset[str]) -> None:
        """Judges an effect of it."""
        self.follower.judgement.effect(
            kind, self.place, path, language=self.follower.language, **more
        )


Handler = Callable[[Called], Val | None]


class Library:
    """A language's names: builtins, modules, functions and methods, with what they do.

    ``functions`` goes by full name, ``methods`` by the method's name on anything; ``names`` are
    those known without an import; ``modules`` says which names are written otherwise.
    """

    def __init__(
        self,
        language: str,
        functions: Mapping[str, Handler],
        methods: Mapping[str, Handler],
        names: Mapping[str, str],
        modules: Mapping[str, str],
    ) -> None:
        self.language = language
        self._functions = functions
        self._methods = methods
        self._names = names
        self._modules = modules
        self._known: dict[str, Val] = {}

    def name(self, name: str) -> Val:
        """A name that the program did not bind."""
        value = self._known.get(name)
        if value is None:
            ref = self._names.get(name)
            if ref is None:
                return unknown()
            value = self._known[name] = self.module(ref)
        return value

    def module(self, path: str) -> Val:
        """A module, or something in one, by its full name."""
        for prefix in ("node:", "std."):
            path = path.removeprefix(prefix)
        head, dot, rest = path.partition(".")
        path = self._modules.get(head, head) + dot + rest if path not in self._modules else path
        path = self._modules.get(path, path)[:_LONGEST_REF]
        if path in _CONSTANTS:
            return Val(_CONSTANTS[path])
        return Val(ref=path, tags=_TAGS.get(path, NO_TAGS))

    def attribute(self, base: Val, name: str) -> Val:
        """An attribute of something of the library."""
        assert base.ref is not None
        if name in ("__dict__", "default", "prototype", "promises"):
            return base
        ref = f"{base.ref}.{name}"
        if ref in ("process.env.HOME", "process.env.USERPROFILE"):
            return Val(HOME)
        made = self.module(ref) if not base.ref.endswith(")") else Val(ref=ref[:_LONGEST_REF])
        if made.text is not None:
            return made
        tags = base.tags - {"environment"} | made.tags
        return Val(ref=made.ref, tags=tags, path=base.path, text=None)

    def entry(self, follower: Follower, base: Val, key: str) -> Val:
        """``base[key]``."""
        if base.ref in (
            "sys.modules",
            "globals()",
            "globalThis",
            "builtins.globals()",
            "builtins.locals()",
        ):
            return self.name(key) if key in self._names else self.module(key)
        if base.ref in ("os.environ", "process.env"):
            return Val(HOME) if key in ("HOME", "USERPROFILE") else Val(ref="os.environ[]")
        return follower.attribute(base, key)

    def element(self, values: Val) -> Val:
        """An element of a value whose elements are not known."""
        if values.path is None or values.ref is None:
            return unknown(values.tags)
        below = f"{values.path.rstrip('/')}/**"
        if values.ref == "walk()":
            names = Val(items=[Val(UNKNOWN)])
            return Val(items=[Val(below, path=below), names, names], tags=values.tags)
        if values.ref == "walk":
            path = f"{below}/{UNKNOWN}"
            return Val(path, ref="pathlib.Path()", path=path, tags=values.tags)
        if values.ref == "glob":
            return Val(values.path, tags=values.tags)
        if values.ref == "walk-names":
            tags = {"process-list"} if values.path == "/proc" else NO_TAGS
            return Val(UNKNOWN, tags=values.tags | tags)
        return unknown(values.tags)

    def call(self, called: Called) -> Val:
        """Judges a call; gives what is known of its result."""
        ref = called.function.ref
        follower = called.follower
        follower.judgement.budget.step()
        shown = ref if ref is not None else f"?.{called.name}"
        receiver_tags = called.receiver.tags if called.receiver is not None else NO_TAGS
        if follower.judgement.rules.index(self.language).asks_call(shown):
            event = Call(
                shown,
                [_as_argument(value) for value in called.arguments],
                {key: _as_argument(value) for key, value in called.keywords.items()},
                called.place,
                receiver_tags,
            )
            follower.judgement.emit(event, self.language)
        handler = self._functions.get(ref) if ref is not None else None
        if handler is None and ref is not None and ref.startswith(_COMMANDS):
            handler = self._functions["sh.*"]
        made = handler(called) if handler is not None else None
        if made is None and called.receiver is not None:
            made = self._method(called)
        if made is not None:
            return made
        if ref in _FORGETS:
            return Val(ref=f"{ref}()")
        tags = called.tags() | receiver_tags | called.function.tags
        return Val(ref=f"{ref}()"[:_LONGEST_REF] if ref is not None else None, tags=tags)

    def _method(self, called: Called) -> Val | None:
        receiver = called.receiver
        assert receiver is not None
        handler = self._methods.get(called.name)
        if handler is not None:
            made = handler(called)
            if made is not None:
                return made
        method = fold.METHODS.get(called.name)
        if method is not None and (receiver.text is not None or receiver.items is not None
                                   or called.name == "join"):  # fmt: skip
            made = method(receiver, called.arguments)
            if made is not None and receiver.ref is not None and made.text is not None:
                made.ref, made.path = receiver.ref, made.text
            return made
        return None


def _as_argument(value: Val, levels: int = 3) -> Text:
    """A value as rules see it: lists joined by blanks, entries as ``key=value``."""
    if not levels:
        return Text(UNKNOWN, value.tags)
    if value.items is not None:
        shown = [_as_argument(item, levels - 1).text for item in value.items[:32]]
        return Text(" ".join(shown), value.all_tags())
    if value.fields is not None and value.ref is None:
        pairs = list(value.fields.items())[:16]
        shown = [f"{key}={_as_argument(inner, levels - 1).text}" for key, inner in pairs]
        return Text(" ".join(shown), value.all_tags())
    if value.ref is not None and value.text is None:
        return Text(f"{value.ref}{value.path or ''}", value.all_tags())
    return value.as_text()
