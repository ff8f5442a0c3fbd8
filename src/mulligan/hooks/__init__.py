"""Gates before and after an execution, and the people who are asked.

`manager.HookManager` runs hooks; `builtin` and `injector` are hooks that come along, `command`
makes one of a program; `build` reads the settings; `permits` asks for approval. See
``docs/hooks.md`` and ``docs/approvals.md``.
"""
