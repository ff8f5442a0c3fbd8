"""Sets of packages for executions: found, or built once for all who ask for the same."""

from __future__ import annotations

import asyncio
import contextvars
import secrets
import time
from collections.abc import Awaitable, Callable

from mulligan.drivers.interface import Driver
from mulligan.engine.packages.builder import Builder, Built, Order
from mulligan.engine.packages.interpreters import interpreter_of, npm_of
from mulligan.engine.requests.validation import check_language, check_packages
from mulligan.engine.vms.program import Program
from mulligan.engine.vms.store import Stores
from mulligan.engine.vms.vm import Vm
from mulligan.errors import (
    ExecutionFailed,
    PackagesNotFound,
    ValidationFailed,
    VmExecutionError,
)
from mulligan.images.host import HostImage
from mulligan.log import get_logger
from mulligan.models import VmExecuteRequest, utc_now
from mulligan.models.packages import PackageSet, WarmRequest
from mulligan.packages.indexes import Sources, of_npm, of_python
from mulligan.packages.store import PackageStore, directory_of, key_of
from mulligan.settings import Settings
from mulligan.telemetry import Stage

log = get_logger()

FORMAT = 2
CONFIG_S = 60.0  # how long what the host is configured with is not looked at again
MOST_BUILDS = 2
Progress = Callable[[str], None]


class Build:
    """One build under way, and who is told of it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[PackageSet] | None = None
        self.listeners: list[Progress] = []
        self.said: str | None = None

    def say(self, text: str) -> None:
        """Tells everybody who waits."""
        self.said = text
        for listener in self.listeners:
            listener(text)


class Needs:
    """The packages of one execution.

    Args:
        packages: where they are had.
        request: what asks for them.
        language: its canonical name.
        vm: where they are used.
        made: makes the program, with a set or without.
        progress: as for ``Packages.ensure``.

    Attributes:
        found: the set, once there is one.
    """

    def __init__(
        self,
        packages: Packages,
        request: VmExecuteRequest,
        language: str,
        vm: Vm,
        made: Callable[[PackageSet | None], Program],
        progress: Progress,
    ) -> None:
        self.found: PackageSet | None = None
        self._packages = packages
        self._request = request
        self._language = language
        self._vm = vm
        self._made = made
        self._progress = progress

    async def program(self, first: Callable[[], Awaitable[None]] | None = None) -> Program:
        """The program with its packages, which stay until the VM's processes end.

        Args:
            first: awaited before an index is asked, such as for a person's yes.

        Raises:
            VmExecutionError: see ``Packages.ensure``, or ``first`` raised it.
        """
        if first is not None:
            await first()
        if self._request.requirements and self.found is None:
            self.found = await self._packages.ensure(
                self._request.requirements,
                self._language,
                image=self._vm.spec.image,
                builds=self._packages.builds_for(self._vm.record.vm_type),
                progress=self._progress,
            )
        if self.found is not None:
            self._vm.packages_in_use.add(self.found.id)
        return self._made(self.found)

    def pins(self) -> list[str]:
        """Each package with its exact version."""
        return self.found.pins() if self.found is not None else []


class Packages:
    """The sets of a data directory.

    Args:
        settings: bounds.
        image: the host's own.
        driver, stores: as for the VMs of users.
        store: where sets are.
        vms: those there are, whose sets stay.
    """

    def __init__(
        self,
        settings: Settings,
        image: HostImage,
        driver: Driver,
        stores: Stores,
        store: PackageStore,
        vms: Callable[[], list[Vm]],
    ) -> None:
        self._settings = settings
        self._image = image
        self._store = store
        self._vms = vms
        self._builder = Builder(settings, driver, stores, store.builders)
        self._builds: dict[str, Build] = {}
        self._places = asyncio.Semaphore(MOST_BUILDS)
        self._sources: dict[str, tuple[float, Sources]] = {}
        self._closed = False

    async def ensure(
        self,
        requirements: list[str],
        language: str,
        *,
        image: HostImage | None = None,
        builds: bool = False,
        progress: Progress = lambda _: None,
        refresh: bool = False,
    ) -> PackageSet:
        """The set for some requirements, built if there is none.

        Cancelling this stops nobody's build: others may wait for it, or ask again.

        Args:
            requirements: any.
            language: its canonical name.
            image: what it is for; None: the host's own.
            builds: whether code of packages may run to make it.
            progress: told in a few words what is under way.
            refresh: whether what is there already does not count.

        Raises:
            ValidationFailed: they are refused, or cannot be had (``RequirementsRefused``).
            ExecutionFailed: it could not be built this time.
            ConfigError: this host cannot build any.
        """
        asked = check_packages(requirements, language, self._settings.packages)
        image = image or self._image
        sources = await self._configured(language)
        request = self._request_key(asked, language, image, sources, builds=builds)
        found = None if refresh else self._store.find(request)
        if found is not None:
            return found
        if self._closed:
            raise ExecutionFailed("Mulligan is shutting down")
        build = self._builds.get(request)
        if build is None:
            build = self._builds[request] = Build()
            work = self._build(build, request, asked, language, image, sources, builds)
            # In a context of its own: it belongs to nobody's request.
            build.task = asyncio.create_task(work, context=contextvars.copy_context())
            build.task.add_done_callback(lambda task: self._over(request, task))
        assert build.task is not None
        build.listeners.append(progress)
        if build.said is not None:
            progress(build.said)
        try:
            with Stage("packages", language=language):
                return await asyncio.shield(build.task)
        except asyncio.CancelledError:
            if self._closed:
                raise ExecutionFailed("Mulligan is shutting down") from None
            raise
        finally:
            build.listeners.remove(progress)

    def _over(self, request: str, task: asyncio.Task[PackageSet]) -> None:
        self._builds.pop(request, None)
        if not task.cancelled():
            task.exception()  # seen, also where nobody waits any more

    async def _configured(self, language: str) -> Sources:
        """What the host is configured with now, or was a moment ago."""
        known = self._sources.get(language)
        if known is None or time.monotonic() - known[0] > CONFIG_S:
            if language == "python":
                sources = await asyncio.to_thread(of_python)
            else:
                sources = await asyncio.to_thread(of_npm, npm_of(self._image))
            known = self._sources[language] = (time.monotonic(), sources)
        return known[1]

    def _request_key(
        self,
        asked: list[str],
        language: str,
        image: HostImage,
        sources: Sources,
        *,
        builds: bool,
    ) -> str:
        interpreter = interpreter_of(language, image)
        return key_of(FORMAT, language, interpreter, sources.identity(), builds, asked)

    async def _build(
        self,
        build: Build,
        request: str,
        asked: list[str],
        language: str,
        image: HostImage,
        sources: Sources,
        builds: bool,
    ) -> PackageSet:
        interpreter = interpreter_of(language, image)
        python = str(image.toolchains["python"].program)
        program = [python] if language == "python" else npm_of(self._image)
        made: list[PackageSet] = []
        build.say("packages: waiting for other builds" if self._places.locked() else "packages")
        async with self._places:
            set_id = secrets.token_hex(16)
            order = Order(image, set_id, language, asked, program, sources, builds)

            def take(built: Built) -> None:
                packages = [each.model_dump() for each in built.packages]
                index = sources.identity()
                record = PackageSet(
                    id=order.set_id,
                    language=language,
                    requirements=asked,
                    packages=built.packages,
                    size_bytes=built.size_bytes,
                    created_at=utc_now(),
                    interpreter=interpreter,
                    index=index,
                    builds=builds,
                    key=key_of(FORMAT, language, interpreter, index, builds, packages),
                    requests=[request],
                )
                self._store.forget(request)
                made.append(self._store.add(record, built.tree))

            started = time.monotonic()
            await self._builder.build(order, lambda text: build.say(f"packages: {text}"), take)
        log.info(
            "packages_built",
            set_id=made[0].id,
            language=language,
            packages=made[0].pins()[:100],
            size_bytes=made[0].size_bytes,
            seconds=round(time.monotonic() - started, 1),
        )
        await self.collect(spared={made[0].id})
        return made[0]

    def builds_for(self, vm_type: str) -> bool:
        """Whether code of packages may run to make sets for VMs of a type."""
        known = self._settings.vm_types.get(vm_type)
        return known is not None and known.allow_builds

    # For people

    def list(self) -> list[PackageSet]:
        """The sets there are, the one used last first."""
        return self._store.all()

    async def warm(self, request: WarmRequest, progress: Progress = lambda _: None) -> PackageSet:
        """Has a set made before an execution needs it.

        Raises:
            ValidationFailed: nothing is asked for, or what is, is refused.
            VmExecutionError: see ``ensure``.
        """
        language = check_language(request.language, self._settings)
        if not request.requirements:
            raise ValidationFailed("requirements is empty", field="requirements")
        builds = self.builds_for(self._settings.default_vm_type)
        return await self.ensure(
            request.requirements,
            language,
            builds=builds,
            progress=progress,
            refresh=request.refresh,
        )

    async def remove(self, set_id: str) -> None:
        """Removes a set. Nothing that runs may need it.

        Raises:
            PackagesNotFound: there is none.
            ExecutionFailed: a VM that is up has used it.
        """
        users = [vm.record.id for vm in self._vms() if set_id in vm.packages_in_use]
        if users:
            raise ExecutionFailed(
                f"programs of {users[0]} may use it",
                field="set_id",
                remedy="remove it when the VM has stopped",
            )
        if not await asyncio.to_thread(self._store.remove, set_id):
            raise PackagesNotFound(
                f"no set of packages {set_id[:100]}",
                field="set_id",
                remedy="mulligan packages ls shows those there are",
            )
        log.info("packages_removed", set_ids=[set_id])

    async def collect(self, spared: set[str] | None = None) -> None:
        """Removes what nobody used for long, or is too much."""
        in_use = {each for vm in self._vms() for each in vm.packages_in_use} | (spared or set())
        known = self._settings.packages
        removed = await asyncio.to_thread(
            self._store.spare, in_use, known.unused_days, known.max_total_mb
        )
        if removed:
            log.info("packages_removed", set_ids=removed)

    async def close(self) -> None:
        """Ends what is being built."""
        self._closed = True
        tasks = [each.task for each in self._builds.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for each in results:
            if isinstance(each, Exception) and not isinstance(each, VmExecutionError):
                log.error("packages_not_closed", error=str(each))
        await asyncio.to_thread(self._store.close)


async def open_packages(
    settings: Settings,
    image: HostImage,
    driver: Driver,
    stores: Stores,
    vms: Callable[[], list[Vm]],
) -> Packages:
    """The sets of a data directory, without what was left half done; see ``Packages``.

    Raises:
        ConfigError: the directory takes nothing.
    """
    durable = settings.durability == "power"
    store = await asyncio.to_thread(PackageStore, directory_of(settings), durable=durable)
    for complaint in await asyncio.to_thread(store.load):
        log.error("packages_damaged", detail=complaint)
    return Packages(settings, image, driver, stores, store, vms)
