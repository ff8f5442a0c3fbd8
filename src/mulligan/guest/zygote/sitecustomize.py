"""The zygote: an interpreter that has started up to just before ``__main__``, and forks there.

CPython imports ``sitecustomize`` as the last step of its start, before it looks at the script it
was given. This module, found through PYTHONPATH, serves jobs from inside that import; in each
forked child it puts everything back as it was and fails with the very ImportError that ``site``
passes over in silence, so the interpreter goes on to run ``/run/mulligan/main.py`` by its own
code: no frame of ours is on the stack, and ``__main__``, tracebacks, exit codes, ``atexit`` and
threads are CPython's doing. docs/decisions/0003-zygote.md has the differences that remain.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

_HOOK_DIR = os.path.dirname(__file__)
_PACKAGE_DIR = os.path.dirname(os.path.dirname(os.path.dirname(_HOOK_DIR)))


def _serve() -> dict[str, Any]:
    """Runs the zygote; returns, in a child only, the job to become."""
    control, *groups = map(int, os.environ.pop("MULLIGAN_ZYGOTE").split())
    return forkserver.serve(control, groups)


def _ours() -> list[str]:
    """The modules that are here for our sake, and no program is to find."""
    helpers = ("atexit", "fcntl", "gc", "resource", "select")
    return [
        name
        for name in set(sys.modules) - _BEFORE
        if name.startswith(("_", "mulligan.")) or name in (*helpers, "mulligan")
    ]


def _become(job: dict[str, Any]) -> None:
    """Wipes the traces of the zygote off this child."""
    for name in _OURS if len(sys.modules) == _MODULES else _ours():
        del sys.modules[name]
    gc.freeze()  # what serving made is no more to be touched than the rest
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__dict__.update(_MAIN.__dict__)  # a frozen one would never see its destructors run
    _LEAVING.prepare(main.__dict__)
    os.environ.clear()
    os.environ.update(job["env"])
    _follow()
    sys.path.insert(0, job["cwd"])  # behind the script's own directory, which comes next


sys.path[:] = [path for path in sys.path if path != _HOOK_DIR]
sys.path_importer_cache.pop(_HOOK_DIR, None)
del sys.modules["sitecustomize"]
try:
    import sitecustomize  # noqa: F401  (the host's own, if it has one)
except ImportError:
    _ERROR = ImportError("No module named 'sitecustomize'", name="sitecustomize")
else:
    _ERROR = None  # type: ignore[assignment]
_BEFORE = set(sys.modules)
_MAIN = sys.modules["__main__"]
sys.path.insert(0, _PACKAGE_DIR)
from mulligan.guest import forkserver  # noqa: E402
from mulligan.guest.kernels.packages import follow as _follow  # noqa: E402
from mulligan.guest.leaving import Leaving  # noqa: E402

_LEAVING = Leaving()
# Found out once: to look at the name of every module is to copy a page for most of them.
_OURS, _MODULES = _ours(), len(sys.modules)
gc.freeze()  # a program that ends does not touch, and so copy, what it never made
_JOB = _serve()
sys.path.remove(_PACKAGE_DIR)
sys.path_importer_cache.pop(_PACKAGE_DIR, None)
_become(_JOB)
if _ERROR is not None:
    raise _ERROR
