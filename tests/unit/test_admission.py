"""The queue in front of executions: who starts when, who is refused, and that nothing is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mulligan.engine.requests import admission as module
from mulligan.engine.requests.admission import Admission, DeadlinePassed, Ticket
from mulligan.engine.requests.allowance import Allowance
from mulligan.errors import TooManyRequests, Unavailable, VmNotAvailable
from mulligan.settings import AdmissionSettings, LimitSettings

pytestmark = pytest.mark.anyio


def admission(own: int = 0, **settings: Any) -> Admission:
    """One with settings; ``own`` is what an agent may run."""
    allowance = Allowance(LimitSettings(running_executions=own))
    settings = {"max_starting": 1000} | settings
    return Admission(AdmissionSettings(**settings), allowance)


@asynccontextmanager
async def running(queue: Admission, agent: str, **more: Any) -> AsyncIterator[Ticket]:
    with queue.request(agent) as ticket:
        async with queue.place(ticket, f"vm-{agent}", **more):
            yield ticket


async def settled() -> None:
    """Lets everything happen that can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Requests that run until they are told to end, in the order in which they started."""

    def __init__(self, queue: Admission) -> None:
        self.queue = queue
        self.started: list[str] = []
        self.running: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        """Requests, each named by its agent, a letter, and a number."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._run(name))
            await settled()

    async def _run(self, name: str) -> None:
        async with running(self.queue, name[0]):
            self.started.append(name)
            self.running.append(name)
            try:
                await self.ends[name].wait()
            finally:
                self.running.remove(name)

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settled()

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await settled()

    async def over(self) -> None:
        for end in self.ends.values():
            end.set()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.queue.waiting, self.running) == (0, [])


async def test_what_has_started_makes_room_for_others_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 0.0)
    queue = admission(max_running=100, max_starting=4)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(queue, "a"))
        await stack.enter_async_context(running(queue, "a"))
        crowd = Crowd(queue)
        await crowd.come("a1", "b1", "a2")
        assert crowd.running == ["b1"]
        queue.begun(first)
        await asyncio.sleep(0.01)
        await settled()
        assert crowd.running == ["b1", "a1"]
        assert queue.running == 4
        await crowd.over()
    assert queue.running == 0


async def test_without_a_queue_everything_starts_at_once() -> None:
    crowd = Crowd(admission(max_running=4))
    await crowd.come("a1", "b1", "c1")
    assert crowd.started == ["a1", "b1", "c1"]
    await crowd.over()


async def test_agents_take_turns_whatever_one_of_them_has_queued() -> None:
    crowd = Crowd(admission(max_running=1))
    await crowd.come("x1", *(f"a{n}" for n in range(6)), "b1", "c1", "b2")
    while crowd.running:
        await crowd.end(crowd.running[0])
    assert crowd.started == ["x1", "a0", "b1", "c1", "a1", "b2", "a2", "a3", "a4", "a5"]
    await crowd.over()


async def test_one_agent_leaves_places_for_others() -> None:
    crowd = Crowd(admission(max_running=8))
    await crowd.come(*(f"a{n}" for n in range(10)))
    assert crowd.started == ["a0", "a1", "a2", "a3"]
    await crowd.come("b1", "c1")
    assert crowd.started[4:] == ["b1", "c1"]
    await crowd.end("b1")
    await crowd.end("c1")
    assert len(crowd.started) == 6
    await crowd.end("a0")
    assert crowd.started[6:] == ["a4"]
    await crowd.over()


async def test_a_polite_agent_starts_next_behind_five_hundred_of_a_greedy_one() -> None:
    """In the order of starts: at once, or after one start of the other at most."""
    for places in (1, 2, 3, 16):
        crowd = Crowd(admission(max_running=places))
        await crowd.come(*(f"g{n}" for n in range(500)))
        for number in range(20):
            before = len(crowd.started)
            await crowd.come(f"p{number}")
            while f"p{number}" not in crowd.started:
                await crowd.end(crowd.running[0])
            assert len(crowd.started) - before <= 2, places
            await crowd.end(f"p{number}")
        assert crowd.queue.waiting > 400
        await crowd.over()


async def test_what_is_cancelled_never_starts_and_holds_nobody_up() -> None:
    crowd = Crowd(admission(max_running=1))
    await crowd.come("x1", "a1", "b1", "a2")
    await crowd.cancel("a1")
    crowd.ends["x1"].set()
    await crowd.cancel("b1")  # in the turn of the loop in which its place may come
    await crowd.end("x1")
    assert "a1" not in crowd.started
    assert crowd.running == ["a2"]
    await crowd.over()


async def test_an_agents_own_limit_holds_in_the_queue_too() -> None:
    crowd = Crowd(admission(own=1, max_running=2))
    await crowd.come("x1", "y1", "a1", "a2", "b1")
    await crowd.end("x1")
    await crowd.end("y1")
    assert crowd.running == ["a1", "b1"]  # a2 was passed over
    await crowd.end("a1")
    assert crowd.running == ["b1", "a2"]
    await crowd.over()


async def test_with_room_on_the_host_an_agent_at_its_own_limit_is_refused() -> None:
    queue = admission(own=1, max_running=4)
    async with running(queue, "a"), running(queue, "b"):
        with pytest.raises(TooManyRequests, match="agent a runs 1 executions"):
            queue.request("a").__enter__()


async def test_a_terminal_that_ends_lets_one_start() -> None:
    """Terminals count for the agent and take no place."""
    allowance = Allowance(LimitSettings(running_executions=1))
    queue = Admission(AdmissionSettings(max_running=1), allowance)
    crowd = Crowd(queue)
    await crowd.come("x1")
    with allowance.execution("a"):
        await crowd.come("a1")
        await crowd.end("x1")
        assert crowd.running == []
    await settled()
    assert crowd.running == ["a1"]
    await crowd.over()


async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    crowd = Crowd(admission(max_running=1, max_queued=8, max_queued_per_agent=3))
    await crowd.come("x1", "a1", "a2", "a3")
    with pytest.raises(TooManyRequests, match="3 executions of agent a wait") as caught:
        crowd.queue.request("a").__enter__()
    assert 1 <= caught.value.retry_after_s <= 3600
    await crowd.come(*(f"{agent}1" for agent in "bcdef"))
    assert crowd.queue.waiting == 8
    with pytest.raises(TooManyRequests, match="8 executions wait"):
        crowd.queue.request("z").__enter__()
    await crowd.end("x1")
    await crowd.come("z1")  # a place in the queue became free
    await crowd.over()
    assert "z1" in crowd.started


async def test_one_agent_cannot_fill_the_queue() -> None:
    crowd = Crowd(admission(max_running=1, max_queued=100))
    await crowd.come("x1", *(f"a{n}" for n in range(50)))
    with pytest.raises(TooManyRequests, match="50 executions of agent a wait"):
        crowd.queue.request("a").__enter__()
    await crowd.come("b1")
    assert crowd.queue.waiting == 51
    await crowd.over()


async def test_the_time_to_come_again_is_learned() -> None:
    clock = iter(float(n) * 100 for n in range(1000))
    queue = Admission(
        AdmissionSettings(max_running=2, max_queued=1),
        Allowance(LimitSettings()),
        lambda: next(clock),
    )
    async with running(queue, "a"):
        pass  # held for 100 s by that clock
    async with running(queue, "a"):
        with queue.request("b"), pytest.raises(TooManyRequests) as caught:
            queue.request("c").__enter__()
    assert caught.value.retry_after_s == 50


async def test_a_deadline_that_passes_in_the_queue() -> None:
    queue = admission(max_running=1)
    async with running(queue, "a"):
        with pytest.raises(DeadlinePassed):
            async with running(queue, "b", deadline_s=0.01):
                pytest.fail("it started")
        kernel = asyncio.Lock()
        async with kernel:
            with pytest.raises(DeadlinePassed):
                async with running(queue, "b", kernel=kernel, deadline_s=0.01):
                    pytest.fail("it started")
    assert (queue.waiting, queue.running) == (0, 0)


async def test_nobody_waits_for_ever() -> None:
    queue = admission(max_running=1, queue_timeout_seconds=0.01)
    async with running(queue, "a"):
        with pytest.raises(TooManyRequests, match=r"waited 0\.01 s for its turn and never started"):
            async with running(queue, "b", deadline_s=60):
                pytest.fail("it started")
    assert queue.waiting == 0


async def test_waiting_is_told_and_measured() -> None:
    told: list[int | None] = []
    queue = admission(max_running=1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running(queue, "x", on_wait=told.append))
        assert told == []

        async def wait(agent: str) -> Ticket:
            async with running(queue, agent, on_wait=told.append) as ticket:
                return ticket

        waiting = []
        for agent in "aabca":
            waiting.append(asyncio.create_task(wait(agent)))
            await settled()
        assert told == [0, 1, 1, 2, 4]
        await stack.aclose()
        tickets = await asyncio.gather(*waiting)
    assert all(ticket.started and ticket.waited_s > 0 for ticket in tickets)


async def test_cells_that_wait_for_their_kernel_hold_no_place() -> None:
    queue, kernel = admission(max_running=2), asyncio.Lock()
    crowd = Crowd(queue)
    await kernel.acquire()

    async def cell() -> None:
        async with running(queue, "a", kernel=kernel):
            assert kernel.locked()

    cells = [asyncio.create_task(cell()) for _ in range(5)]
    await settled()
    assert queue.running == 0
    await crowd.come("a1", "b1")
    assert crowd.running == ["a1", "b1"]
    kernel.release()
    await settled()
    assert queue.waiting == 1  # one has the kernel's turn; the others wait for that
    await crowd.over()
    await asyncio.gather(*cells)
    assert not kernel.locked()


async def test_stopping_turns_away_what_waits_and_lets_run_what_runs() -> None:
    crowd = Crowd(admission(max_running=1))
    await crowd.come("a1", "b1", "c1")
    crowd.queue.stop()
    await settled()
    for name in ("b1", "c1"):
        assert isinstance(crowd.tasks[name].exception(), Unavailable)
    with pytest.raises(Unavailable) as caught:
        crowd.queue.request("d").__enter__()
    assert (caught.value.http_status, caught.value.retry_after_s > 0) == (503, True)
    assert crowd.running == ["a1"]
    emptied = asyncio.create_task(crowd.queue.emptied())
    await settled()
    assert not emptied.done()
    await crowd.end("a1")
    await emptied
    await crowd.over()


async def test_those_whose_vm_is_gone_wait_no_longer() -> None:
    crowd = Crowd(admission(max_running=1))
    await crowd.come("a1", "b1", "c1", "b2")
    crowd.queue.turn_away("vm-b", VmNotAvailable("vm-b"))
    await settled()
    assert isinstance(crowd.tasks["b1"].exception(), VmNotAvailable)
    assert isinstance(crowd.tasks["b2"].exception(), VmNotAvailable)
    await crowd.end("a1")
    assert crowd.running == ["c1"]
    await crowd.over()


class Play:
    """A crowd that comes and goes, and what has to hold after every step."""

    def __init__(self, places: int, own: int) -> None:
        self.places, self.own = places, own
        self.crowd = Crowd(admission(own, max_running=places))
        self.waiting: list[str] = []
        self.before: dict[str, int] = {}  # of the same agent, when it came
        self.since: dict[str, Counter[str]] = {}  # starts of each agent

    async def step(self, number: int, what: str, which: int) -> None:
        known = len(self.crowd.started)
        if what == "come":
            await self.come(f"{'abcd'[which % 4]}{number}")
        elif what == "end" and self.crowd.running:
            await self.crowd.end(self.crowd.running[which % len(self.crowd.running)])
        elif self.waiting:
            await self.crowd.cancel(self.waiting.pop(which % len(self.waiting)))
        for name in self.crowd.started[known:]:
            assert name == next(each for each in self.waiting if each[0] == name[0])
            self.waiting.remove(name)
            for each in self.waiting:
                self.since[each][name[0]] += 1
        self.check()

    async def come(self, name: str) -> None:
        queue = self.crowd.queue
        held = Counter(each[0] for each in self.crowd.running)[name[0]]
        waits = any(each[0] == name[0] for each in self.waiting)
        if self.own and not waits and self.own <= held < self.places - queue.running:
            with pytest.raises(TooManyRequests):
                queue.request(name[0]).__enter__()
            return
        self.before[name] = sum(each[0] == name[0] for each in self.waiting)
        self.since[name] = Counter()
        self.waiting.append(name)
        await self.crowd.come(name)

    def check(self) -> None:
        held = Counter(name[0] for name in self.crowd.running)
        free = self.places - len(self.crowd.running)
        assert free >= 0
        assert not self.own or max(held.values(), default=0) <= self.own
        for each in self.waiting:
            at_its_own = self.own and held[each[0]] >= self.own
            assert held[each[0]] >= free or at_its_own, "it could run"
            if self.places == 1 and not self.own:  # else agents may be passed over
                assert max(self.since[each].values(), default=0) <= self.before[each] + 1


@given(
    places=st.integers(1, 6),
    own=st.integers(0, 3),
    steps=st.lists(st.tuples(st.sampled_from(["come", "end", "cancel"]), st.integers(0, 99))),
)
def test_whatever_comes_and_goes(places: int, own: int, steps: list[tuple[str, int]]) -> None:
    """Nobody waits who could run, no bound is passed, order holds, turns are taken."""

    async def play() -> None:
        played = Play(places, own)
        for number, (what, which) in enumerate(steps):
            await played.step(number, what, which)
        await played.crowd.over()

    asyncio.run(play())
