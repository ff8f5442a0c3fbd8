"""A kernel of a VM, for tests."""

import itertools

from mulligan.engine.executions.programs import steps_for
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.replies import KernelMemory, ProgramResult
from mulligan.images.host import WORKSPACE

_numbers = itertools.count()


class Kernel:
    """One kernel of a machine, and short ways to use it."""

    def __init__(self, machine, language: str = "python") -> None:
        self.machine = machine
        self.language = language
        self.name = f"k{next(_numbers)}"
        self.pace = machine.pace  # of its driver

    def program(self, code: str, **more) -> Program:
        _, steps, _ = steps_for(self.language, self.machine.image)
        fields = {"env": {}, "cwd": WORKSPACE, "timeout_ms": 20_000, "output_limit": 1 << 20} | more
        return Program(
            "kernel",
            steps,
            {},
            kernel=self.name,
            language=self.language,
            code=code,
            **fields,
        )

    async def run(self, code: str, **more) -> ProgramResult:
        turn = self.machine.vm.turn_of(self.name)
        assert turn is not None
        async with turn:  # as an engine's queue has it
            return await self.machine.vm.run(self.program(code, **more))

    async def value(self, code: str, **more) -> str | None:
        """The value of a cell that must succeed."""
        result = await self.run(code, **more)
        assert (result.reason, result.status) == ("exit", 0), result
        return result.result

    async def text(self, code: str, **more) -> str:
        """What a cell that must succeed prints."""
        result = await self.run(code, **more)
        assert (result.reason, result.status) == ("exit", 0), result
        return result.stdout.decode()

    async def memory(self, op: str, key: str, keep: int = 16) -> KernelMemory | None:
        """What a request about memory says of this kernel."""
        answers = await self.memories(op, key, keep)
        return next((each for each in answers if each.name == self.name), None)

    async def memories(self, op: str, key: str, keep: int = 16) -> list[KernelMemory]:
        """A request about the memory of all of the VM's kernels."""
        vm = self.machine.vm
        await vm.start()
        return await vm._connection.kernels(op, key, keep)
