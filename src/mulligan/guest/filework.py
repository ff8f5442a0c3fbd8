"""A program that works on files of a VM for somebody outside; run in the VM as any program is.

The host lays this text at ``/run/mulligan/main.py`` of an execution of its own, with a call of
``main`` as its last line. So it sees what programs see, may do what they may, and the kernel
follows links in their root and nowhere else. It stands alone: nothing of Mulligan is in that root.

It speaks through stdin and stdout, in messages: kind u8, length u32, payload; numbers are
big-endian. To the host go RECORD (a name), DATA, TAKEN (u64: bytes of DATA written so far), FAIL
(u32 error number, text) and DONE; from it come GO (u64 offset, u64 length), CREDIT (u64: bytes of
DATA that may have been sent), DATA and END (u64: bytes of DATA there were). Neither side has more
than a window under way, so a reader who stops holds up nothing but this program.
"""

import sys

# Before anything else is imported: what lies in the VM is not to be imported in its place.
sys.path[:] = [path for path in sys.path if path not in ("", "/", "/run/mulligan")]

import errno  # noqa: E402
import os  # noqa: E402
import struct  # noqa: E402
import time  # noqa: E402
from stat import S_IFMT, S_IMODE, S_ISDIR, S_ISLNK, S_ISREG  # noqa: E402

HEADER = struct.Struct(">BI")
NAME = struct.Struct(">IQqH")  # mode, size, mtime in ns, length of the name; name; target
NUMBER = struct.Struct(">Q")
RANGE = struct.Struct(">QQ")
ERROR = struct.Struct(">I")
RECORD, DATA, TAKEN, FAIL, DONE = 1, 2, 3, 4, 5
GO, CREDIT, END = 16, 17, 18
MOST = 64 * 1024
UNTOLD = 1 << 20  # of a file that says it is empty, as those of /proc do
MOST_TARGET = 4096
FULL_LOOKS, FULL_PAUSE_S = 25, 0.02
REFUSED = 200  # error numbers of our own, above the kernel's: no regular file
IN_THE_WAY = 201
IS_ROOT = 202
NOT_KEPT = 203
PRIVATE = b"/run/mulligan"  # of each execution, and gone with it


class RefusedError(Exception):
    """Something this program does not do, by a number of its own."""


def send(kind: int, payload: bytes = b"") -> None:
    view = memoryview(HEADER.pack(kind, len(payload)) + payload)
    while view:
        view = view[os.write(1, view) :]


def receive() -> tuple[int, bytes]:
    """The next message; nobody is there any more where there is none."""
    kind, length = HEADER.unpack(_exactly(HEADER.size))
    return kind, _exactly(length)


def _exactly(count: int) -> bytes:
    parts = []
    while count:
        part = os.read(0, count)
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def record(name: bytes, status: os.stat_result, target: bytes = b"") -> bytes:
    target = target[:MOST_TARGET]
    return NAME.pack(status.st_mode, status.st_size, status.st_mtime_ns, len(name)) + name + target


def _look(path: bytes) -> bytes:
    """A record of a name itself, links not followed."""
    status = os.lstat(path)
    target = os.readlink(path) if S_ISLNK(status.st_mode) else b""
    return record(os.path.basename(path.rstrip(b"/")), status, target)


def stat(path: bytes) -> None:
    send(RECORD, _look(path))


def list_directory(path: bytes, limit: int, most_bytes: int) -> None:
    """Records of what is in a directory, in no order; DONE says whether there is more."""
    more = 0
    with os.scandir(path) as found:
        for entry in found:
            if limit == 0 or most_bytes < 0:
                more = 1
                break
            try:
                status = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.path) if S_ISLNK(status.st_mode) else b""
            except FileNotFoundError:
                continue  # it has just been removed
            line = record(entry.name, status, target)
            send(RECORD, line)
            limit -= 1
            most_bytes -= len(line) + HEADER.size
    send(DONE, bytes([more]))


def read(path: bytes) -> None:
    """A record of what the path leads to, then what GO asks for of it."""
    if not S_ISREG(os.stat(path).st_mode):  # opening a pipe or a device may do something
        refuse_kind(os.stat(path).st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not S_ISREG(status.st_mode):
        refuse_kind(status.st_mode)
    told = None
    if status.st_size == 0:
        told = _untold(descriptor)
    size = len(told) if told is not None else status.st_size
    name = os.path.basename(path)
    send(RECORD, NAME.pack(status.st_mode, size, status.st_mtime_ns, len(name)) + name)
    kind, payload = receive()
    if kind != GO:
        return
    offset, length = RANGE.unpack(payload)
    end, granted, sent = min(size, offset + length), 0, 0
    while offset < end:
        while granted <= sent:
            kind, payload = receive()
            (granted,) = NUMBER.unpack(payload)
        count = min(MOST, end - offset, granted - sent)
        if told is not None:
            data = told[offset : offset + count]
        else:
            data = os.pread(descriptor, count, offset)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        send(DATA, data)
        offset += len(data)
        sent += len(data)
    send(DONE)


def _untold(descriptor: int) -> bytes:
    data = b""
    while len(data) < UNTOLD:
        part = os.read(descriptor, MOST)
        if not part:
            break
        data += part
    return data[:UNTOLD]


def refuse_kind(mode: int) -> None:
    if S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise RefusedError(REFUSED, oct(S_IFMT(mode)))


def write(path: bytes, mode: int | None, parents: bool) -> None:
    """Takes DATA into a file without a name, which takes the path's place at END."""
    target = os.path.realpath(path)
    if target.startswith(PRIVATE):
        raise RefusedError(NOT_KEPT, "")
    before = _replaceable(target)
    directory, name = os.path.split(target)
    if not name or path.endswith(b"/"):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if parents:
        _make(directory)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if before is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if mode is None:
        mode = S_IMODE(before.st_mode) if before is not None else 0o644
    temporary = b".%s-%s" % (name[:200], os.urandom(6).hex().encode())
    descriptor, named = _temporary(place, temporary)
    try:
        _take(descriptor)
        os.fchmod(descriptor, mode & 0o7777)
        _replaceable(target)
        if not named:
            source = b"/proc/self/fd/%d" % descriptor
            # With src_dir_fd Python calls linkat(2), and only that one follows this link.
            os.link(source, temporary, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=True)
            named = True
        os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
        named = False
    finally:
        if named:
            os.unlink(temporary, dir_fd=place)
    status = os.fstat(descriptor)
    send(RECORD, record(name, status))


def _replaceable(target: bytes) -> os.stat_result | None:
    """The status of the file that is there; None where none is."""
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return None
    if S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if not S_ISREG(status.st_mode):
        refuse_kind(status.st_mode)
    return status


def _temporary(place: int, name: bytes) -> tuple[int, bool]:
    """An empty file in a directory; whether it has a name, which it has on old kernels."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        return os.open(b".", flags | os.O_TMPFILE, 0o600, dir_fd=place), False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
    return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=place), True


def _take(descriptor: int) -> None:
    send(TAKEN, NUMBER.pack(0))
    taken = 0
    while True:
        kind, payload = receive()
        if kind == END:
            if NUMBER.unpack(payload)[0] != taken:
                raise EOFError
            return
        _put(descriptor, payload)
        taken += len(payload)
        send(TAKEN, NUMBER.pack(taken))


def _put(descriptor: int, data: bytes) -> None:
    """Writes; a disk that has just been full may have been measured again in a moment."""
    view, patience = memoryview(data), FULL_LOOKS
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            if error.errno != errno.EFBIG or not patience:
                raise
            patience -= 1
            time.sleep(FULL_PAUSE_S)


def make_directory(path: bytes, parents: bool) -> None:
    """DONE says whether it was made, or was there."""
    try:
        os.mkdir(path)
        made = 1
    except FileExistsError:
        if not parents or not os.path.isdir(path):
            raise
        made = 0
    except FileNotFoundError:
        if not parents:
            raise
        _make(path)
        made = 1
    send(RECORD, _look(path))
    send(DONE, bytes([made]))


def _make(path: bytes) -> None:
    """Makes a directory and those above it."""
    end = 0
    while end < len(path):
        end = path.find(b"/", end + 1)
        end = len(path) if end < 0 else end
        try:
            os.mkdir(path[:end])
        except FileExistsError:
            continue


def delete(path: bytes, recursive: bool) -> None:
    if os.path.realpath(path) == b"/":
        raise RefusedError(IS_ROOT, "/")
    status = os.lstat(path.rstrip(b"/"))
    if not S_ISDIR(status.st_mode):
        os.unlink(path)
    elif recursive:
        _run([b"rm", b"-rf", b"--", path])
    else:
        os.rmdir(path)
    send(DONE)


def move(source: bytes, target: bytes, overwrite: bool, parents: bool) -> None:
    os.lstat(source)
    if not overwrite and os.path.lexists(target):
        raise RefusedError(IN_THE_WAY, "")
    if parents:
        _make(os.path.dirname(target.rstrip(b"/")))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # A directory of a frozen layer cannot be renamed, or it is another file system.
        _run([b"mv", b"-T", b"-f", b"--", source, target])
    send(RECORD, _look(target))


def _run(command: list[bytes]) -> None:
    """Runs a tool of the VM; its complaint, if it has one, is the error."""
    read_end, write_end = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write_end, 2), (os.POSIX_SPAWN_DUP2, write_end, 1)]
    environment = {**os.environ, "LC_ALL": "C"}
    pid = os.posix_spawnp(command[0], command, environment, file_actions=actions)
    os.close(write_end)
    said = b""
    while part := os.read(read_end, MOST):
        said = (said + part)[:1000]
    if os.waitpid(pid, 0)[1]:
        lines = said.decode(errors="replace").splitlines() or ["it failed without a word"]
        number = errno.EACCES if "ermission denied" in lines[0] else errno.EIO
        raise OSError(number, lines[0])


def main(work: str, *arguments: object) -> None:
    """Does what the function named does, and ends; what goes wrong is told."""
    os.umask(0o022)
    try:
        globals()[work](*arguments)
    except EOFError:
        os._exit(1)  # nobody wants it any more
    except RefusedError as error:
        number, text = error.args
        send(FAIL, ERROR.pack(number) + text.encode())
    except OSError as error:
        text = str(error.strerror or error)
        send(FAIL, ERROR.pack(error.errno or 0) + text.encode(errors="replace")[:2000])
    os._exit(0)
