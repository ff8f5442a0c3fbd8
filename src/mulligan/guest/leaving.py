"""The short way out for a program from the zygote: its end without the interpreter's own clean-up.

At its end CPython takes everything apart that its start made, object by object. In a forked child
that means copying nearly every page of the zygote, for nothing: it costs several times what a short
program does. All that can be seen of it is what destructors and finalizers of the program's own
objects do. So a function registered with ``atexit`` before any of the program's, and thus called
after all of them, looks at what the program left. Where it is sure that the program ended with 0
and that none of its objects would notice being taken apart, it flushes the standard streams, as
``Py_FinalizeEx`` would, and ends the process. In every other case it does nothing, and CPython goes
its own way: doubt costs milliseconds, never a difference.

The order of things at exit is that of CPython's ``Py_FinalizeEx`` (Python/pylifecycle.c): joining
threads, ``atexit``, flushing, then the clean-up that is left out here. ``__file__`` of ``__main__``
is deleted when the script's own code has ended by itself or by an exception that was printed, and
is still there after SystemExit (Python/pythonrun.c, ``_PyRun_SimpleFileObject``); an exception that
was printed leaves ``sys.last_type``. From Python 3.14 on it is deleted after SystemExit, too, and
nothing tells an end with 0 from another: there every program goes CPython's own way.
"""

from __future__ import annotations

import _thread
import _weakref
import atexit
import gc
import os
import sys

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from types import TracebackType

TELLS_HOW = sys.version_info < (3, 14)  # whether ``__file__`` says how a program ended
MOST_OBJECTS = 50_000
HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE and its like, Include/object.h
IMMUTABLE_TYPE = 1 << 8
COLLECTED = 1 << 14
LIVING = ("generator", "coroutine", "async_generator")  # their "finally" is still to come
# Where types come from whose instances end without a word. "builtins" is also what many types of
# C say they are from that are no names in it.
HARMLESS = ("builtins", "functools", "itertools", "_frozen_importlib", "_frozen_importlib_external")


class Leaving:
    """Ends programs the short way where nobody can tell.

    Made in the zygote, after everything a program finds there has been imported.
    """

    def __init__(self) -> None:
        named = vars(sys.modules["builtins"]).values()
        found = {type(each) for each in gc.get_objects()}
        found |= {each for each in named if isinstance(each, type)}
        found |= {type(_thread.allocate_lock()), _thread.RLock, type(_a_traceback().tb_frame)}
        found.add(type(_a_traceback()))
        self._harmless = {each for each in found if each.__module__ in HARMLESS}
        self._harmless -= {each for each in self._harmless if each.__name__ in LIVING}
        self._harmless.discard(_weakref.ReferenceType)
        # Their numbers alone: what is kept alive here would not be taken apart as elsewhere.
        self._streams = (id(sys.stdout), id(sys.stderr))
        self._main = 0
        if TELLS_HOW:
            atexit.register(self._leave)

    def prepare(self, main: dict[str, object]) -> None:
        """In the child: ``main`` is the namespace of its ``__main__``."""
        self._main = id(main)

    def _leave(self) -> None:
        try:
            if self._ended_well() and self._leaves_nothing():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        except BaseException:
            return  # the interpreter's own way will meet it again, and say so

    def _ended_well(self) -> bool:
        """Whether the program ended by itself, with 0, alone, and its streams are as they were."""
        printed_an_exception = hasattr(sys, "last_type") or sys.excepthook is not sys.__excepthook__
        main = vars(sys.modules["__main__"])
        left_by_exit = id(main) != self._main or "__file__" in main or "__cached__" in main
        streams = (id(sys.stdout), id(sys.stderr)) == self._streams
        alone = not _thread._count()  # noqa: SLF001  (threading's own use of it)
        return streams and alone and not left_by_exit and not printed_an_exception

    def _leaves_nothing(self) -> bool:
        """Whether everything the program made ends without a word."""
        objects = gc.get_objects()
        if len(objects) > MOST_OBJECTS:
            return False
        made = set(map(type, objects)) - self._harmless - {_weakref.ReferenceType}
        if not all(map(self._is_plain, made)):
            return False
        for each in objects:
            if isinstance(each, type):
                # Instances of it are not among the objects, if there are any.
                if not each.__flags__ & COLLECTED and not self._is_plain(each):
                    return False
            elif type(each) is _weakref.ReferenceType and not _is_silent(each.__callback__):
                return False
        return True

    def _is_plain(self, kind: type) -> bool:
        """Whether a class is made in Python, and its instances end without a word."""
        for each in kind.__mro__:
            if each in self._harmless:
                continue
            flags = each.__flags__
            if "__del__" in each.__dict__ or flags & IMMUTABLE_TYPE or not flags & HEAP_TYPE:
                return False
            module = sys.modules.get(each.__module__)
            loader = getattr(getattr(module, "__spec__", None), "loader", None)
            if id(vars(module)) != self._main and type(loader).__name__ != "SourceFileLoader":
                return False
        return True


def _a_traceback() -> TracebackType:
    """Any; its type is what is asked for."""
    try:
        os.stat("")
    except OSError as error:
        if error.__traceback__ is not None:
            return error.__traceback__
    raise AssertionError


def _is_silent(callback: object) -> bool:
    """Whether there is none, or it is that of an abstract base class's cache (Modules/_abc.c)."""
    return callback is None or type(getattr(callback, "__self__", None)) is _weakref.ReferenceType
