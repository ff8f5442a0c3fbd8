"""Kernels of a VM that goes on as a fork of another one: none draws what that one would."""

import pytest

from mulligan.guest.kernels.branching import ENDED

pytestmark = pytest.mark.anyio

SEEDED = "import random, ssl; random.seed(1)"
PROGRAMS_OWN = """
import random, sys
class random:
    def seed(): raise ValueError("not mine")
sys.modules["random"] = random
own = sys.modules["random"]
"""


async def test_python_draws_other_numbers_and_has_the_rest(python) -> None:
    await python.run(f"{SEEDED}; own = random.Random(2)")
    drawn = []
    for _ in range(2):
        await python.memory("checkpoint", "a")
        assert await python.memory("branch", "") is None
        drawn.append(await python.value("random.random()"))
        assert await python.value("own.random()") == "0.9560342718892494"  # a program's own
        await python.run("random.seed(1); own.seed(2)")
    assert len({*drawn, "0.13436424411240122"}) == 3


async def test_numpys_numbers_are_others_too(python) -> None:
    if (await python.run("import numpy; numpy.random.seed(1)")).status:
        pytest.skip("this host's Python has no numpy")
    await python.memory("branch", "")
    assert await python.value("numpy.random.random() == 0.417022004702574") == "False"


async def test_nothing_leads_back_to_the_vm_it_was(python) -> None:
    await python.run(SEEDED)
    await python.memory("checkpoint", "a")
    await python.memory("branch", "")
    assert "keys=()" in repr(await python.memory("list", ""))
    await python.memory("checkpoint", "b")  # not what was kept before
    await python.memory("revive", "b")
    assert await python.value("random.random() == 0.13436424411240122") == "False"


async def test_what_a_program_has_in_the_place_of_random_is_told(python) -> None:
    await python.run(PROGRAMS_OWN)
    await python.memory("branch", "")
    told = await python.run("own is sys.modules['random']")
    assert (told.result, len(told.notes)) == ("True", 1)
    assert "fork of: not mine" in told.notes[0]


async def test_bash_draws_other_numbers(bash) -> None:
    await bash.run("RANDOM=1; x=kept")
    await bash.memory("branch", "")
    first = await bash.text("echo $x $RANDOM $RANDOM $RANDOM")
    await bash.run("RANDOM=1")
    assert first != await bash.text("echo $x $RANDOM $RANDOM $RANDOM")
    await bash.run("unset RANDOM")
    await bash.memory("branch", "")
    assert await bash.text("echo ${RANDOM-unset}") == "unset\n"


async def test_node_which_cannot_starts_afresh(node) -> None:
    await node.run("globalThis.x = 1")
    await node.memory("branch", "")
    after = await node.run("typeof x")
    assert after.result == "'undefined'"
    assert [note.startswith(ENDED) for note in after.notes] == [True]
