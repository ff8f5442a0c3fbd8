"""Kernels in snapshots: keeping their memory, and bringing it back."""

from __future__ import annotations

import time

from mulligan.guest import frames
from mulligan.guest.kernels.branching import branch
from mulligan.guest.kernels.links import MOST_NOTES, LinkError, Message
from mulligan.guest.kernels.live import Live
from mulligan.guest.kernels.memories import Frozen, Memory, Text
from mulligan.guest.room import check_descriptors

TYPE_CHECKING = False  # importing typing for it would cost every VM milliseconds
if TYPE_CHECKING:
    from typing import Any

    from mulligan.guest.kernels.manager import Kernels
    from mulligan.guest.kernels.runners import Kernel

PATIENCE_S = 5.0
MOST_KEYS = 256
MOST_KEPT = 16
KEPT, LOST, NOT_KEPT = "kept", "lost", "not kept"
FAILED = "failed"


class Request:
    """A KERNELS frame that is being answered."""

    def __init__(self, channel: int, key: str, keep: int) -> None:
        self.channel = channel
        self.key = key
        self.keep = keep
        self.waiting: dict[str, Memory | None] = {}
        self.answers: list[dict[str, object]] = []
        self.deadline = time.monotonic() + PATIENCE_S
        self.asked = False

    def tell(self, kernel: Kernel, language: str, memory: str, notes: list[str]) -> None:
        """Takes one kernel's part of the answer."""
        self.waiting.pop(kernel.name, None)
        self.answers.append(
            {
                "name": kernel.name,
                "language": language,
                "memory": memory,
                "notes": notes[:MOST_NOTES],
                "keys": list(kernel.memories),
            }
        )


class Snapshots:
    """Memories of all kernels."""

    def __init__(self, kernels: Kernels) -> None:
        self._all = kernels
        self._requests: list[Request] = []
        self._later: list[tuple[int, dict[str, Any]]] = []

    def ask(self, channel: int, body: dict[str, Any]) -> None:
        """Takes a KERNELS frame."""
        op, key, keep = body.get("op"), body.get("key"), body.get("keep", MOST_KEPT)
        if op == "revive" and any(
            isinstance(memory, Frozen) and not memory.pid
            for kernel in self._all.kernels.values()
            if (memory := kernel.memories.get(str(key))) is not None
        ):
            self._later.append((channel, body))  # it was revived just now, and is being replaced
            return
        request = Request(channel, str(key or ""), keep if isinstance(keep, int) else MOST_KEPT)
        self._requests.append(request)
        if op == "branch":
            self._all.place.starter.drop_spare()  # it has a state of its parent's, too
        for kernel in list(self._all.kernels.values()):
            self._do(str(op), kernel, request)
        request.asked = True
        self._settle(request)

    def _do(self, op: str, kernel: Kernel, request: Request) -> None:
        """One kernel's part of a request."""
        if op == "checkpoint":
            self._checkpoint(kernel, request)
        elif op == "revive":
            self._revive(kernel, request)
        elif op == "drop":
            for each in request.key.split():
                self._drop(kernel, each)
        elif op == "list":
            request.tell(kernel, kernel.language, KEPT if kernel.memories else LOST, [])
        elif op == "end" and request.key in ("", kernel.name):
            self._end(kernel, request)
        elif op == "branch":
            branch(self._all, kernel)
            for each in list(kernel.memories):
                self._drop(kernel, each)

    def frozen(self) -> list[Frozen]:
        """Every frozen image, those included that are only coming to be."""
        kept = {each for k in self._all.kernels.values() for each in k.memories.values()}
        coming = [each for request in self._requests for each in request.waiting.values()]
        return [each for each in (*kept, *coming) if isinstance(each, Frozen) and each.pid]

    def frozen_pids(self) -> frozenset[int]:
        """Their processes."""
        return frozenset(each.pid for each in self.frozen())

    def stop(self) -> None:
        """Has all images stand still: any program of the VM can have set them going."""
        for each in self.frozen():
            each.stop()

    def due(self) -> float | None:
        """When a kernel will have been waited for long enough."""
        return min((request.deadline for request in self._requests), default=None)

    def on_time(self, now: float) -> None:
        """Answers for kernels that do not."""
        for request in list(self._requests):
            if now >= request.deadline:
                for name in list(request.waiting):
                    kernel = self._all.kernels[name]
                    self._all.end(kernel, "the kernel was ended: it did not answer")
                self._settle(request)

    def reaped(self, pid: int) -> bool:
        """A process has ended; true where it was an image."""
        for kernel in list(self._all.kernels.values()):
            for memory in set(kernel.memories.values()):
                if isinstance(memory, Frozen) and memory.pid == pid:
                    memory.pid = 0
                    self._forget_all(kernel, memory)
                    return True
        return False

    def _forget_all(self, kernel: Kernel, memory: Memory) -> None:
        for key in [key for key, each in kernel.memories.items() if each is memory]:
            self._forget(kernel, key)

    # Keeping

    def _checkpoint(self, kernel: Kernel, request: Request) -> None:
        live = kernel.live
        if live is None:
            return
        if kernel.language == "javascript":
            request.tell(kernel, kernel.language, NOT_KEPT, [])
            return
        if kernel.cell is not None or kernel.saving or not live.usable:
            request.tell(kernel, kernel.language, NOT_KEPT, ["it was busy"])
            return
        if kernel.latest is not None and not kernel.latest.notes:
            self._keep(kernel, request, kernel.latest)  # nothing ran in it since
            return
        try:
            check_descriptors()
        except OSError as error:
            request.tell(kernel, kernel.language, NOT_KEPT, [str(error.strerror)])
            return
        kernel.saving = True
        if kernel.language == "bash":
            request.waiting[kernel.name] = None
            self._all.say(kernel, live, '{ __mulligan_state "$@"; } 2>/dev/null')
            return
        image = Frozen(kernel.language, kernel.program, live)
        request.waiting[kernel.name] = image
        image.listen = lambda: self._on_image(kernel, image, request)
        self._all.place.loop.watch(image.link.socket.fileno(), image.listen)
        self._all.say(kernel, live, "checkpoint", [image.link.theirs.fileno()])
        image.link.theirs.close()

    def _on_image(self, kernel: Kernel, image: Frozen, request: Request) -> None:
        """An image has spoken: it is there, or it is gone."""
        try:
            message = image.link.receive()
            if message is None:
                return
            notes = message.notes()
        except BlockingIOError:
            return
        except LinkError:
            self._bad_image(kernel, image, request)
            return
        taken = image.pid or message.pid in self._all.pids()
        if taken or message.op != "frozen" or not image.owns(message.pid):
            self._bad_image(kernel, image, request)
            return
        image.notes = notes
        image.pid = message.pid
        image.stop()
        self._ask_again()
        if request.waiting.get(kernel.name) is image:
            self._keep(kernel, request, image)
        elif kernel.live is not None and kernel.live.usable:
            self.came_up(kernel, kernel.live)

    def _bad_image(self, kernel: Kernel, image: Frozen, request: Request) -> None:
        if image in kernel.memories.values():
            self._forget_all(kernel, image)
            self._ask_again()
            if kernel.live is not None and kernel.live.usable:
                self.came_up(kernel, kernel.live)
            return
        if request.waiting.get(kernel.name) is image:
            self._close(image)
            request.tell(kernel, kernel.language, NOT_KEPT, ["its memory could not be kept"])
            self._resume(kernel, request)

    def said(self, kernel: Kernel, message: Message) -> None:
        """A live kernel's own answer: a shell's state, or that it could not fork."""
        request = next((each for each in self._requests if kernel.name in each.waiting), None)
        if request is None:
            raise LinkError("it spoke out of turn")
        image = request.waiting[kernel.name]
        why = message.optional("failed", 300) or message.optional("message", 300)
        if kernel.language == "bash" and message.op == "state" and why is None:
            memory = Text(kernel.language, kernel.program, message.text)
            memory.notes = message.notes()
            self._keep(kernel, request, memory)
            return
        if image is not None:
            self._close(image)
        request.tell(kernel, kernel.language, NOT_KEPT, [why or "its memory could not be kept"])
        self._resume(kernel, request)

    def _keep(self, kernel: Kernel, request: Request, memory: Memory) -> None:
        if kernel.memories.get(request.key) is not memory:
            self._drop(kernel, request.key)
        kernel.memories[request.key] = kernel.latest = memory
        while kernel.memories and (
            len(set(kernel.memories.values())) > request.keep or len(kernel.memories) > MOST_KEYS
        ):
            self._forget(kernel, next(iter(kernel.memories)))
        kept = KEPT if request.key in kernel.memories else NOT_KEPT
        request.tell(kernel, kernel.language, kept, memory.notes)
        self._resume(kernel, request)

    def _resume(self, kernel: Kernel, request: Request) -> None:
        kernel.saving = False
        self._settle(request)
        self._all.pump(kernel)

    # Bringing back

    def _revive(self, kernel: Kernel, request: Request) -> None:
        memory = kernel.memories.get(request.key)
        language = kernel.language
        self.displace(kernel, "the VM was rolled back")
        was_live, kernel.displaced = kernel.displaced, False
        if memory is None:
            if was_live:
                gone = NOT_KEPT if language == "javascript" else LOST
                request.tell(kernel, language, gone, [])
            return
        kernel.memories[request.key] = kernel.memories.pop(request.key)  # it is not the oldest now
        kernel.language, kernel.program = memory.language, memory.program
        kernel.obituary = None
        kernel.saving = True
        request.waiting[kernel.name] = None
        if isinstance(memory, Text):
            self._all.begin(kernel, "/", {}, memory.text())
        elif isinstance(memory, Frozen):
            self._thaw(kernel, memory)

    def displace(self, kernel: Kernel, why: str) -> None:
        """Ends a kernel for a state in which it may not be; its memories stay."""
        kernel.displaced |= kernel.live is not None
        self._end_quietly(kernel, why)

    def _thaw(self, kernel: Kernel, image: Frozen) -> None:
        try:
            check_descriptors()
        except OSError as error:
            self.gone(kernel, f"it could not be brought back: {error.strerror}")
            return
        live = Live(image.language, image.files)
        live.namespace, live.pid = image.namespace, image.pid
        kernel.live = live
        self._all.watch(kernel, live)
        try:
            image.revive(live)  # it is what lives now; another image takes its place
        except LinkError:
            self._all.end(kernel, "its frozen image was gone")
        else:
            live.started()

    def _ask_again(self) -> None:
        later, self._later = self._later, []
        for channel, body in later:
            self.ask(channel, body)

    def renew(self, kernel: Kernel) -> None:
        """Hears the images that have just taken a revived one's place: they are to be spared."""
        for memory in set(kernel.memories.values()):
            if isinstance(memory, Frozen) and not memory.pid:
                memory.listen()

    def came_up(self, kernel: Kernel, live: Live) -> None:
        """A kernel can take cells: perhaps one that was brought back.

        It is not back before another image waits in its place: what the VM's processes are for is
        known whenever a request is answered.
        """
        for request in list(self._requests):
            if kernel.name not in request.waiting or not kernel.saving:
                continue
            memory = kernel.memories.get(request.key)
            if isinstance(memory, Frozen) and not memory.pid:
                return
            kept = memory.notes if memory is not None else []
            kernel.latest = memory
            request.tell(kernel, kernel.language, KEPT, [*live.notes, *kept])
            self._resume(kernel, request)

    def gone(self, kernel: Kernel, why: str) -> None:
        """A kernel ended: where its memory was waited for, that is the answer."""
        for request in list(self._requests):
            if kernel.name in request.waiting:
                image = request.waiting[kernel.name]
                if image is not None:
                    self._close(image)
                request.tell(kernel, kernel.language, LOST, [why])
                kernel.saving = False
                self._settle(request)
        for memory in set(kernel.memories.values()):
            if isinstance(memory, Frozen) and not memory.pid:  # who was to take its place is gone
                self._forget_all(kernel, memory)
                self._ask_again()

    # Letting go

    def _drop(self, kernel: Kernel, key: str) -> None:
        if key in kernel.memories:
            self._forget(kernel, key)

    def _forget(self, kernel: Kernel, key: str) -> None:
        memory = kernel.memories.pop(key)
        if memory not in kernel.memories.values():
            self._close(memory)
            if kernel.latest is memory:
                kernel.latest = None
        self._tidy(kernel)

    def _close(self, memory: Memory) -> None:
        if isinstance(memory, Frozen):
            descriptor = memory.link.socket.fileno()
            if self._all.place.loop.watches(descriptor):
                self._all.place.loop.forget(descriptor)
        memory.close()

    def _end(self, kernel: Kernel, request: Request) -> None:
        self._end_quietly(kernel, "the kernel was ended")
        request.tell(kernel, kernel.language, LOST, [])
        for key in list(kernel.memories):
            self._drop(kernel, key)
        kernel.obituary = None
        self._tidy(kernel)

    def _end_quietly(self, kernel: Kernel, why: str) -> None:
        """Ends a kernel, and cancels what was to run in it."""
        waiting, kernel.queue = kernel.queue, []
        if kernel.cell is not None:
            kernel.cell.reason = "cancel"
            kernel.cell.message = why
        self._all.end(kernel, why)
        for cell in waiting:
            cell.reason, cell.message = "cancel", why
            self._all.finish(cell, 9)

    def _tidy(self, kernel: Kernel) -> None:
        if kernel.empty() and self._all.kernels.get(kernel.name) is kernel:
            del self._all.kernels[kernel.name]

    def _settle(self, request: Request) -> None:
        if request in self._requests and request.asked and not request.waiting:
            self._requests.remove(request)
            self._all.place.send(frames.KERNELS_DONE, request.channel, {"kernels": request.answers})
