"""The engine: takes requests, finds the VM, runs the program, and says how it went.

Every face (library, CLI, HTTP) is a thin layer over this class.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from datetime import datetime
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from mulligan.drivers.bubblewrap.driver import BubblewrapDriver
from mulligan.drivers.interface import BootSpec, Driver
from mulligan.engine.connection import OutputCallback, Program, ProgramResult
from mulligan.engine.lock import DirectoryLock
from mulligan.engine.programs import steps_for
from mulligan.engine.store import VmRecord, VmStore, make_directory, new_id
from mulligan.engine.validation import check_agent_id, check_request
from mulligan.engine.vm import Vm
from mulligan.errors import (
    ConfigError,
    ExecutionFailed,
    ExecutionTimeout,
    ValidationFailed,
    VmNotAvailable,
)
from mulligan.images.host import WORKSPACE, HostImage, prepare
from mulligan.languages import LANGUAGES
from mulligan.log import get_logger
from mulligan.models import (
    VmCreateRequest,
    VmExecuteRequest,
    VmExecuteResponse,
    VmInstance,
    utc_now,
)
from mulligan.settings import Settings

log = get_logger()

TIMEOUT_EXIT_CODE = 124  # as timeout(1) has it
SIGNAL_EXIT_CODE = 128
MAX_NAME_LENGTH = 200
Result = TypeVar("Result")


class Engine:
    """Serves one data directory. Use as an async context manager, or ``open`` and ``close``."""

    def __init__(self, settings: Settings, lock: DirectoryLock | None = None) -> None:
        """Takes settings, and the lock of their data directory if the caller has it already."""
        self.settings = settings
        self._lock = lock
        self._parts: tuple[HostImage, Driver, VmStore] | None = None
        self._vms: dict[str, Vm] = {}
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def __aenter__(self) -> Engine:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Makes ready to execute.

        Raises:
            ConfigError: the data directory is in use or not writable, or the host lacks something.
        """
        directory = self.settings.data_dir
        if self._lock is None:
            self._lock = DirectoryLock(directory)
        try:
            guest = (self.settings.guest_uid, self.settings.guest_gid)
            driver = BubblewrapDriver(guest, directory)
            swept = await asyncio.to_thread(driver.sweep)
            if swept:
                log.warning("leftovers_ended", pids=swept)
            make_directory(directory / "images")
            image = await asyncio.to_thread(prepare, directory / "images", driver.disk_owner())
            store = VmStore(directory / "vms", driver.disk_owner())
            records, complaints = await asyncio.to_thread(store.load)
            for complaint in complaints:
                log.error("vm_unreadable", detail=complaint)
            self._parts = (image, driver, store)
            self._vms = {record.id: self._vm(record) for record in records}
        except BaseException:
            self._release()
            raise

    async def close(self) -> None:
        """Stops every VM, whatever runs in it. Their disks stay for the next time.

        From its beginning nothing new starts; the directory is let go when nothing runs any more,
        even if this is cancelled.
        """
        self._closing = True
        await self._owned(self._close())

    async def _close(self) -> None:
        await asyncio.gather(*(vm.close() for vm in self._vms.values()))
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        self._vms.clear()
        self._parts = None
        self._release()

    async def _owned(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does something to its end, even if whoever asked for it is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def languages(self) -> list[str]:
        """The languages that are allowed and that this host has."""
        toolchains = self._opened()[0].toolchains
        return [name for name in self.settings.allowed_languages if name in toolchains]

    # Executions

    async def execute(
        self, request: VmExecuteRequest, on_output: OutputCallback | None = None
    ) -> VmExecuteResponse:
        """Runs code. Cancelling this ends it.

        Args:
            request: see the model.
            on_output: called with "stdout" or "stderr" and each piece of output as it comes.

        Raises:
            VmExecutionError: the request was refused, or the VM failed. A program that fails, or
                runs into its time limit, is no error: the response says so.
        """
        image, _, _ = self._opened()
        language = check_request(request, self.settings)
        program = self._program(request, language, image)
        vm = await self._vm_for(request.agent_id, request.vm_id)
        started_at = utc_now()
        start = time.monotonic()
        result = await vm.run(program, on_output)
        duration_ms = int((time.monotonic() - start) * 1000)
        _raise_setup_failure(result)
        response = _response(vm.record.id, program, result, started_at, duration_ms)
        log.info(
            "executed",
            execution_id=response.execution_id,
            agent_id=request.agent_id,
            vm_id=response.vm_id,
            language=language,
            outcome=response.outcome,
            exit_code=response.exit_code,
            duration_ms=duration_ms,
        )
        return response

    def _program(self, request: VmExecuteRequest, language: str, image: HostImage) -> Program:
        runtime, steps, file = steps_for(language, image)
        base_ms = (
            request.timeout_seconds * 1000
            if request.timeout_seconds is not None
            else self.settings.execution_timeout_ms
        )
        return Program(
            runtime=runtime,
            steps=steps,
            files={file: request.code},
            env=request.env or {},
            cwd=request.working_dir or WORKSPACE,
            timeout_ms=int(base_ms * LANGUAGES[language].timeout_multiplier),
            output_limit=self.settings.output_limit_bytes,
            stdin=request.stdin.encode() if request.stdin is not None else None,
        )

    # VMs

    async def create_vm(self, request: VmCreateRequest) -> VmInstance:
        """Makes a VM. It boots when it is first needed.

        Raises:
            ValidationFailed: there is no such type, or a name is not acceptable.
            ConfigError: the data directory takes no more.
        """
        agent_id = request.agent_id or _agent_of(request.vm_name)
        check_agent_id(agent_id)
        name = request.vm_name or f"agent-{agent_id}-vm"
        if not name.isprintable() or len(name) > MAX_NAME_LENGTH:
            raise ValidationFailed(
                f"vm_name must be up to {MAX_NAME_LENGTH} printable characters", field="vm_name"
            )
        return (await self._create(agent_id, name, request.vm_type)).instance()

    def get_vm(self, vm_id: str, agent_id: str | None = None) -> VmInstance:
        """A VM by its id; with ``agent_id``, only if it is that agent's.

        Raises:
            VmNotAvailable: there is none.
        """
        return self._find(vm_id, agent_id).instance()

    def list_vms(self, agent_id: str | None = None) -> list[VmInstance]:
        """All VMs, or those of an agent, oldest first."""
        vms = sorted(self._vms.values(), key=lambda vm: vm.record.created_at)
        return [vm.instance() for vm in vms if agent_id in (None, vm.record.agent_id)]

    async def delete_vm(self, vm_id: str, agent_id: str | None = None) -> None:
        """Stops a VM and removes it and everything it wrote.

        Raises:
            VmNotAvailable: there is none.
        """
        vm = self._find(vm_id, agent_id)
        _, _, store = self._opened()
        del self._vms[vm_id]
        await self._owned(self._delete(vm, store))
        log.info("vm_deleted", vm_id=vm_id, agent_id=vm.record.agent_id)

    async def _delete(self, vm: Vm, store: VmStore) -> None:
        await vm.close()
        await asyncio.to_thread(store.delete, vm.record.id)

    async def _vm_for(self, agent_id: str, vm_id: str | None) -> Vm:
        """The VM an execution goes to: the one named, else the agent's, else a new one."""
        if vm_id is not None:
            return self._find(vm_id, agent_id)
        lock = self._creating.setdefault(agent_id, asyncio.Lock())
        async with lock:
            own = [vm for vm in self._vms.values() if vm.record.agent_id == agent_id]
            if own:
                return min(own, key=lambda vm: vm.record.created_at)
            if not self.settings.auto_provision:
                raise VmNotAvailable(
                    f"agent {agent_id} has none",
                    field="vm_id",
                    remedy="create one with POST /api/vms, or set auto_provision",
                )
            return await self._create(
                agent_id, f"agent-{agent_id}-vm", self.settings.default_vm_type
            )

    async def _create(self, agent_id: str, name: str, vm_type: str) -> Vm:
        _, driver, store = self._opened()
        try:
            self.settings.vm_type(vm_type)
        except ConfigError as error:
            detail = str(error.detail)
            raise ValidationFailed(detail, field="vm_type", remedy=error.remedy) from None
        record = VmRecord(
            id=new_id("vm"),
            name=name,
            agent_id=agent_id,
            vm_type=vm_type,
            driver=driver.name,
            created_at=utc_now(),
        )
        return await self._owned(self._add(record, store))

    async def _add(self, record: VmRecord, store: VmStore) -> Vm:
        try:
            await asyncio.to_thread(store.create, record)
        except OSError as error:
            raise ConfigError(
                f"cannot make a VM in {self.settings.data_dir}: {error.strerror}", field="data_dir"
            ) from None
        vm = self._vms[record.id] = self._vm(record)
        if self._closing:
            await vm.close()  # it was made while the others were closed
        log.info("vm_created", vm_id=record.id, agent_id=record.agent_id, vm_type=record.vm_type)
        return vm

    def _vm(self, record: VmRecord) -> Vm:
        assert self._parts is not None
        image, driver, store = self._parts
        spec = BootSpec(vm_id=record.id, image=image, disk=store.disk(record.id))
        return Vm(record, driver, spec, self.settings.boot_timeout_seconds)

    def _find(self, vm_id: str, agent_id: str | None) -> Vm:
        vm = self._vms.get(vm_id)
        if vm is None or agent_id not in (None, vm.record.agent_id):
            raise VmNotAvailable(vm_id[:100], field="vm_id")
        return vm

    def _opened(self) -> tuple[HostImage, Driver, VmStore]:
        if self._closing:
            raise ExecutionFailed("Mulligan is shutting down")
        if self._parts is None:
            raise RuntimeError("the engine is not open")
        return self._parts


def _agent_of(vm_name: str | None) -> str:
    """The agent in a name of the form clients give: ``agent-<id>-vm``."""
    if vm_name and vm_name.startswith("agent-") and vm_name.endswith("-vm"):
        return vm_name.removeprefix("agent-").removesuffix("-vm")
    raise ValidationFailed(
        "agent_id is missing", field="agent_id", remedy="send it, or a vm_name agent-<id>-vm"
    )


def _raise_setup_failure(result: ProgramResult) -> None:
    """A program that was never started is the request's fault or ours, not the program's."""
    if result.reason != "setup":
        return
    if result.message.startswith("working_dir"):
        raise ValidationFailed(result.message, field="working_dir")
    raise ExecutionFailed(result.message or "the program could not be started")


def _response(
    vm_id: str,
    program: Program,
    result: ProgramResult,
    started_at: datetime,
    duration_ms: int,
) -> VmExecuteResponse:
    exit_code, outcome, error = _judge(program, result)
    return VmExecuteResponse(
        execution_id=new_id("exec"),
        vm_id=vm_id,
        exit_code=exit_code,
        stdout=result.stdout.decode(errors="replace"),
        stderr=result.stderr.decode(errors="replace"),
        duration_ms=duration_ms,
        started_at=started_at,
        completed_at=utc_now(),
        error=error,
        outcome=outcome,
        truncated=result.truncated,
        stdout_bytes=result.stdout_bytes,
        stderr_bytes=result.stderr_bytes,
        cpu_ms=result.cpu_us // 1000,
        max_rss_kb=result.max_rss_kb,
        background_processes=result.background,
    )


def _judge(program: Program, result: ProgramResult) -> tuple[int, str, str | None]:
    """Exit code, outcome and error text of a program that ran."""
    if result.reason == "timeout":
        return TIMEOUT_EXIT_CODE, "timeout", str(ExecutionTimeout(program.timeout_ms))
    code = os.waitstatus_to_exitcode(result.status)
    if code < 0:
        code = SIGNAL_EXIT_CODE - code
    if result.reason == "cancel":
        return code, "cancelled", "Execution cancelled"
    return code, "success" if code == 0 else "failed", None
