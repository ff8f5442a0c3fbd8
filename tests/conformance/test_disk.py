"""A VM's disk: frozen, gone back to, copied under running programs."""

import asyncio

import pytest

from mulligan.engine.vms import disk
from support.profiles import HARD_LINKS

pytestmark = pytest.mark.anyio


async def test_a_file_has_several_names(machine) -> None:
    machine.needs(HARD_LINKS)
    script = "echo one > a && ln a b && rm a && echo two >> b && ln b c && cat c && stat -c %h c"
    assert await machine.text(script) == "one\ntwo\n2\n"


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


BESIDE = """
import os, socket
with socket.create_server('/tmp/beside/s', family=socket.AF_UNIX) as server:
    peer, _ = server.accept()
    socket.send_fds(peer, [b'x'], [os.open('/workspace', os.O_PATH)])
    peer.recv(1)  # until it is let go
"""
REACH = """
import os, socket, time
peer = socket.socket(socket.AF_UNIX)
while peer.connect_ex('/tmp/beside/s'): time.sleep(0.01)
at = socket.recv_fds(peer, 1, 1)[1][0]
os.chdir('/')
peer.close()
"""
WRITE = """
def write():
    try: descriptor = os.open('frozen', os.O_WRONLY | os.O_CREAT, dir_fd=at)
    except OSError as error: return error.strerror
    os.write(descriptor, b'changed')
    return 'written'
write()
"""


async def test_a_frozen_disk_is_not_written_through_the_mounts_of_executions(
    machine, python
) -> None:
    """Those live as long as a descriptor that a kernel keeps."""
    vm = machine.vm
    await machine.text("rm -rf /tmp/beside; mkdir /tmp/beside; echo as it was > frozen")
    beside = asyncio.create_task(machine.text(BESIDE, "python"))
    await python.run(REACH)
    await beside
    await machine.text("rm -r /tmp/beside")
    async with vm.steady():
        assert await disk.freeze(vm)
    assert await python.value(WRITE) == "'Read-only file system'"
    first = vm.state.base
    await machine.text("echo later > frozen")
    async with vm.steady():
        assert await disk.restore(vm, first) == []
    assert await machine.text("cat frozen") == "as it was\n"
