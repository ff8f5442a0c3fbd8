"""A VM's disk: frozen, gone back to, copied under running programs."""

import pytest

from mulligan.engine import disk

pytestmark = pytest.mark.anyio


async def test_freezing_and_going_back(machine) -> None:
    vm = machine.vm
    await machine.text("mkdir -p d && echo one > d/file && ln -s file d/link")
    async with vm.steady():
        assert await disk.freeze(vm)
    first = vm.state.base
    assert first is not None
    await machine.text("echo two > d/file; rm d/link; echo more > other; chmod 700 d")
    async with vm.steady():
        assert await disk.freeze(vm)
    assert vm.state.base != first
    assert await machine.text("cat d/file other; ls d") == "two\nmore\nfile\n"
    async with vm.steady():
        assert await disk.restore(vm, first) == []
    look = "cat d/link; ls; stat -c %a d"
    assert (await machine.text(look)).splitlines()[0] == "one"
    assert "other" not in await machine.text(look)
    assert (await machine.text(look)).splitlines()[-1] == "755"


async def test_nothing_written_is_no_new_layer(machine) -> None:
    vm = machine.vm
    await machine.text("echo x > something")
    async with vm.steady():
        assert await disk.freeze(vm)
    base = vm.state.base
    await machine.text("cat something")
    async with vm.steady():
        assert await disk.freeze(vm)
    assert vm.state.base == base


async def test_a_stopped_vm_is_where_it_was(machine) -> None:
    vm = machine.vm
    await machine.text("echo kept > kept")
    async with vm.steady():
        assert await disk.freeze(vm)
    await machine.text("echo later > later")
    await vm.stop()
    assert await machine.text("cat kept later") == "kept\nlater\n"


async def test_a_program_in_the_background_keeps_it_from_moving(machine) -> None:
    vm = machine.vm
    await machine.text("nohup sleep 600 >/dev/null 2>&1 & echo x > file")
    state = vm.state
    async with vm.steady():
        assert not await disk.freeze(vm)
        assert vm.state == state
        layer = await disk.copy(vm)
    await machine.text("echo y > file")
    async with vm.steady():
        await disk.restore(vm, layer)
    assert await machine.text("cat file; ps ax | grep -c '[s]leep 600' || true") == "x\n0\n"


@pytest.mark.parametrize("layer", ["vm-nobody.7"])
async def test_a_layer_that_is_not_there_changes_nothing(machine, layer) -> None:
    vm = machine.vm
    await machine.text("echo here > here")
    async with vm.steady():
        with pytest.raises(Exception, match="missing or damaged"):
            await disk.restore(vm, layer)
    assert await machine.text("cat here") == "here\n"
