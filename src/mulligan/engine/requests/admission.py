"""Who runs next: a bounded queue in front of executions, fair between agents.

A *place* is the right to have a program run. There are so many of them on the host, and fewer for
executions that *start*: those being started, and for ``SETTLED_S`` after. Starting one is work for
the host, whatever the program does later (most wait for something), and short programs do nothing
else. A request waits where no place is free to it, in a queue of its agent's; agents take turns.

What holds, with R places, r of them taken, of which r(a) by agent a, and S, s and s(a) of those
that start:

1.  An agent may start one only while r(a) < R - r and s(a) < S - s, that is while it holds fewer
    places of either kind than are free. (The threshold of Choudhury and Hahne, "Dynamic queue
    length thresholds for shared-memory packet switches", 1998, with factor 1.) So one agent alone
    gets half of them, however much it asks for, and n agents that ask for more than they get hold
    about R / (n + 1) each: one more that comes finds a place at once. Places in the queue are
    given out by the same rule.
2.  Whenever a place becomes free, agents are asked in the order of a ring, and the first that may
    take it does, with its oldest request, and goes to the end of the ring. Between two turns of
    an agent that may take a place no other gets more than one of those that waited, so a request
    with k of its own agent's before it starts after at most (k + 1) * n starts of n agents that
    wait: what others have queued does not count, only how many they are. An agent that is passed
    over, because of 1 or because it runs as many as it may, keeps its turn.
3.  Requests of one agent start in the order in which they began to wait; none is passed by a
    later one, since a request may go straight ahead only where nothing of its agent waits.
4.  Nobody waits while it could run: after every change (a place is given back, one has started)
    the ring is gone through until nobody in it may take a place. That makes 1 the only reason to
    wait, and taking a place changes nothing for the better for those who wait, so who comes new
    may look at his own agent alone: where there is no queue, admission is a few additions.
5.  Who holds a place waits for its VM alone; who holds a VM, or the turn of a kernel, waits for
    no place that a waiter of his holds: a kernel's turn comes before the place, the VM after it.
    So there is no circle.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from mulligan.engine.requests.allowance import Allowance
from mulligan.errors import TooManyRequests, Unavailable, VmExecutionError
from mulligan.settings import AdmissionSettings
from mulligan.telemetry import Stage

SETTLED_S = 0.05  # what runs longer is no longer starting
FIRST_GUESS_S = 1.0  # how long a place is held, before it is known
LEARNED = 0.1  # the weight of the last one in the average
MOST_RETRY_S = 3600
AGAIN_S = 5  # a server that stops is started again soon, if at all


class DeadlinePassed(Exception):  # noqa: N818  (an outcome)
    """An execution's time was over before its turn came; it never started."""


class Ticket:
    """One request, from its arrival to its answer.

    Attributes:
        agent_id: whose.
        started: whether it was given a place.
        waited_s: seconds it waited for its kernel, its place and its VM.
        for_vm_s: those of them for its VM, which it did with its place.
    """

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.started = False
        self.waited_s = 0.0
        self.for_vm_s = 0.0
        self.began = 0.0
        self.vm_id: str | None = None
        self.turn: asyncio.Future[None] | None = None
        self.starts = False
        self.timer: asyncio.TimerHandle | None = None

    @property
    def queue_ms(self) -> int:
        """``waited_s`` in whole milliseconds."""
        return int(self.waited_s * 1000)

    @property
    def for_vm_ms(self) -> int:
        """``for_vm_s`` in whole milliseconds."""
        return int(self.for_vm_s * 1000)

    def waited(self, seconds: float) -> None:
        """It waited so long for its VM."""
        self.for_vm_s += seconds
        self.waited_s += seconds


class Admission:
    """Gives out places. For one event loop.

    Args:
        settings: how many of everything.
        allowance: how many executions an agent may run.
        clock: seconds that only grow; a test's own.
    """

    def __init__(
        self,
        settings: AdmissionSettings,
        allowance: Allowance,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._allowance = allowance
        self._clock = clock
        self.places = settings.running
        self.running = 0
        self._starts = settings.starting
        self._starting = 0
        self._starting_of: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._requests = 0
        self._requested: Counter[str] = Counter()
        self._ring: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._held_s = FIRST_GUESS_S
        self._learned = False
        self._stopped = False
        self._empty = asyncio.Event()
        allowance.on_ended = self._go_round

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(len(queue) for queue in self._ring.values())

    @contextmanager
    def request(self, agent_id: str) -> Iterator[Ticket]:
        """Counts a request from its arrival to its answer.

        Raises:
            TooManyRequests: the queue is full, or the agent has as much as it may.
            Unavailable: no more are taken.
        """
        self._check(agent_id)
        ticket = Ticket(agent_id)
        self._requests += 1
        self._requested[agent_id] += 1
        try:
            yield ticket
        finally:
            self._requests -= 1
            _take_away(self._requested, agent_id)
            if not self._requests:
                self._empty.set()

    def _check(self, agent_id: str) -> None:
        if self._stopped:
            raise stopping()
        own = self._requested[agent_id] - self._running[agent_id]
        self._check_own(agent_id)
        free = self._settings.max_queued - (self._requests - self.running)
        if free <= 0:
            raise self._full(f"{self._settings.max_queued} executions wait", "max_queued", 1)
        if own >= min(self._settings.max_queued_per_agent, free):
            told = f"{own} executions of agent {agent_id} wait, as many as may of one agent"
            raise self._full(told, "max_queued_per_agent", max(1, len(self._ring)))

    def _check_own(self, agent_id: str) -> None:
        """Refuses what would wait for its own agent alone, since the host has room."""
        over = agent_id not in self._ring and not self._allowance.may_run(agent_id)
        if over and self._has_room(agent_id):
            raise self._allowance.refusal(agent_id)

    def _full(self, what: str, setting: str, turns: int) -> TooManyRequests:
        wait = math.ceil(turns * self._held_s / self.places)
        return TooManyRequests(
            f"the queue is full: {what}",
            field="agent_id",
            remedy=f"come again later, or raise admission.{setting}",
            retry_after_s=min(max(1, wait), MOST_RETRY_S),
        )

    @asynccontextmanager
    async def place(
        self,
        ticket: Ticket,
        vm_id: str,
        kernel: asyncio.Lock | None = None,
        *,
        deadline_s: float | None = None,
        on_wait: Callable[[int | None], None] = lambda _: None,
    ) -> AsyncIterator[None]:
        """Waits for a request's turn, and holds its place. Cancelled, it gives up its turn.

        Args:
            ticket: the request.
            vm_id: its VM.
            kernel: held, too, for a cell; waited for first.
            deadline_s: how long to wait at most, for both.
            on_wait: called where it has to wait, with the number of executions that may start
                before it, at most; None where that cannot be known.

        Raises:
            DeadlinePassed: ``deadline_s`` was over.
            TooManyRequests: it waited as long as the settings allow.
            VmNotAvailable: its VM was removed meanwhile.
            Unavailable: nothing starts any more.
        """
        if kernel is None:
            await self._enter(ticket, vm_id, deadline_s, on_wait)
        else:
            begin = self._clock()
            if kernel.locked():
                on_wait(None)
            with Stage("kernel_queue"):
                try:
                    async with asyncio.timeout(deadline_s):
                        await kernel.acquire()
                except TimeoutError:
                    raise DeadlinePassed from None
                finally:
                    ticket.waited_s += self._clock() - begin
            try:
                left = None if deadline_s is None else deadline_s - ticket.waited_s
                await self._enter(ticket, vm_id, left, on_wait)
            except BaseException:
                kernel.release()
                raise
        try:
            yield
        finally:
            self._leave(ticket)
            if kernel is not None:
                kernel.release()

    async def _enter(
        self,
        ticket: Ticket,
        vm_id: str,
        deadline_s: float | None,
        on_wait: Callable[[int | None], None],
    ) -> None:
        if self._stopped:
            raise stopping()
        self._check_own(ticket.agent_id)
        if ticket.agent_id not in self._ring and self._may_start(ticket.agent_id):
            self._start(ticket)
            return
        ticket.vm_id = vm_id
        ticket.turn = asyncio.get_running_loop().create_future()
        queue = self._ring.setdefault(ticket.agent_id, deque())
        queue.append(ticket)
        on_wait(self._ahead(ticket.agent_id))
        begin = self._clock()
        most = self._settings.queue_timeout_seconds
        try:
            with Stage("admission"):
                async with asyncio.timeout(most if deadline_s is None else min(most, deadline_s)):
                    await ticket.turn
        except BaseException as error:
            ticket.waited_s += self._clock() - begin
            if ticket.started:
                self._leave(ticket)
                ticket.started = False
            else:
                self._give_up(ticket)
            if not isinstance(error, TimeoutError):
                raise
            if deadline_s is not None and deadline_s <= most:
                raise DeadlinePassed from None
            raise self._waited_long(most) from None
        ticket.waited_s += self._clock() - begin

    def _waited_long(self, seconds: float) -> TooManyRequests:
        error = self._full("", "queue_timeout_seconds", max(1, len(self._ring)))
        return TooManyRequests(
            f"it waited {seconds:g} s for its turn and never started",
            field="agent_id",
            remedy=error.remedy,
            retry_after_s=error.retry_after_s,
        )

    def _ahead(self, agent_id: str) -> int:
        """How many may start before the newest of an agent's queue, at most; see the module."""
        own = len(self._ring[agent_id])
        return (
            own
            - 1
            + sum(min(len(queue), own) for agent, queue in self._ring.items() if agent != agent_id)
        )

    def _may_start(self, agent_id: str) -> bool:
        return self._has_room(agent_id) and self._allowance.may_run(agent_id)

    def _has_room(self, agent_id: str) -> bool:
        return (
            self._running[agent_id] < self.places - self.running
            and self._starting_of[agent_id] < self._starts - self._starting
        )

    def _start(self, ticket: Ticket) -> None:
        ticket.started = True
        ticket.began = self._clock()
        self.running += 1
        self._running[ticket.agent_id] += 1
        ticket.starts = True
        self._starting += 1
        self._starting_of[ticket.agent_id] += 1
        self._allowance.began(ticket.agent_id)

    def _leave(self, ticket: Ticket) -> None:
        held = self._clock() - ticket.began
        self._held_s += (held - self._held_s) * (LEARNED if self._learned else 1.0)
        self._learned = True
        self.running -= 1
        _take_away(self._running, ticket.agent_id)
        if ticket.timer is not None:
            ticket.timer.cancel()
            ticket.timer = None
        self._settle(ticket)
        self._allowance.ended(ticket.agent_id)  # which has the ring gone through

    def begun(self, ticket: Ticket) -> None:
        """The program of a request is being started now: it will not be starting for long."""
        ticket.timer = asyncio.get_running_loop().call_later(SETTLED_S, self._settled, ticket)

    def _settled(self, ticket: Ticket) -> None:
        ticket.timer = None
        self._settle(ticket)
        self._go_round()

    def _settle(self, ticket: Ticket) -> None:
        if ticket.starts:
            ticket.starts = False
            self._starting -= 1
            _take_away(self._starting_of, ticket.agent_id)

    def _give_up(self, ticket: Ticket) -> None:
        queue = self._ring.get(ticket.agent_id)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self._ring[ticket.agent_id]

    def _go_round(self) -> None:
        """Gives places to those whose turn it is, until nobody that waits may have one."""
        while self._ring and self.running < self.places and self._starting < self._starts:
            agent_id = next((each for each in self._ring if self._may_start(each)), None)
            if agent_id is None:
                return
            queue = self._ring[agent_id]
            ticket = queue.popleft()
            if queue:
                self._ring.move_to_end(agent_id)
            else:
                del self._ring[agent_id]
            assert ticket.turn is not None
            if not ticket.turn.done():  # else it was cancelled in this turn of the loop
                self._start(ticket)
                ticket.turn.set_result(None)

    def turn_away(self, vm_id: str, error: VmExecutionError) -> None:
        """Ends the waiting of those whose VM is gone."""
        self._turn_away(lambda ticket: ticket.vm_id == vm_id, error)

    def _turn_away(self, which: Callable[[Ticket], bool], error: VmExecutionError) -> None:
        for queue in list(self._ring.values()):
            for ticket in [each for each in queue if which(each)]:
                if ticket.turn is not None and not ticket.turn.done():
                    ticket.turn.set_exception(error)

    def stop(self) -> None:
        """Takes nothing more; what waits is turned away, what runs goes on."""
        self._stopped = True
        self._turn_away(lambda _: True, stopping())

    async def emptied(self) -> None:
        """Waits until every request has its answer; after ``stop``."""
        while self._requests:
            self._empty.clear()
            await self._empty.wait()


def stopping() -> Unavailable:
    """What is answered to new work by a server that stops."""
    return Unavailable(
        "Mulligan is shutting down",
        remedy="send it again when the server is back",
        retry_after_s=AGAIN_S,
    )


def _take_away(counter: Counter[str], agent_id: str) -> None:
    counter[agent_id] -= 1
    if not counter[agent_id]:
        del counter[agent_id]  # agents are many, and most come once
