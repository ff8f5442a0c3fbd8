"""Programs tests run in a VM: one that does a list of operations on files, one that tells all."""

# Reads {"operations": [...], "exit": status} and prints, for each operation, "ok", "copied" (a
# directory that could not be renamed and was moved by copying) or the name of the error.
OPERATE = r"""
import errno, json, os, shutil, subprocess, sys

def write(path, data):
    put_all(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), data)

def append(path, data):
    put_all(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW), data)

def put(path, offset, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    os.lseek(descriptor, offset, os.SEEK_SET)
    put_all(descriptor, data)

def put_all(descriptor, data):
    with open(descriptor, "wb") as file:
        file.write(data)

def truncate(path, size):
    os.truncate(path, size)

def symlink(path, target):
    os.symlink(target, path)

def link(path, to):
    os.link(path, to, follow_symlinks=False)

def chmod(path, mode):
    os.chmod(path, mode | (0o500 if os.path.isdir(path) else 0o400))

def setxattr(path, name, data):
    os.setxattr(path, name, data)

def rename(path, to):
    try:
        os.rename(path, to)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        command = ["mv", "-fT", "--", path, to]
        done = subprocess.run(command, env={"LC_ALL": "C"}, capture_output=True, text=True)
        if "Directory not empty" in done.stderr:
            raise OSError(errno.ENOTEMPTY, path)
        assert done.returncode == 0, done.stderr
        return "copied"

def removexattr(path, name):
    os.removexattr(path, name)

own = dict(write=write, append=append, put=put, truncate=truncate, symlink=symlink, link=link,
           chmod=chmod, setxattr=setxattr, removexattr=removexattr,
           rename=rename, rmtree=shutil.rmtree)
wanted = json.load(sys.stdin)
told = []
for operation in wanted["operations"]:
    op = operation.pop("op")
    if "data" in operation:
        operation["data"] = bytes.fromhex(operation["data"]) * operation.pop("times")
    try:
        told.append(own.get(op, getattr(os, op, None))(**operation) or "ok")
    except OSError as error:
        told.append(errno.errorcode[error.errno])
print(json.dumps(told))
sys.exit(wanted["exit"])
"""

# Prints all there is below the working directory as {path: {...}}; see `trees.Tree.compare`.
DUMP = r"""
import hashlib, json, os, stat

kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink",
         stat.S_IFIFO: "fifo"}

told = ("kind", "mode", "size", "sha256", "target", "xattrs", "ino", "mtime", "blocks")

def entry(path):
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return dict.fromkeys(told, "listed, but not there")
    kind = kinds[stat.S_IFMT(status.st_mode)]
    content = open(path, "rb").read() if kind == "file" else None
    return {
        "kind": kind,
        "mode": stat.S_IMODE(status.st_mode),
        "size": status.st_size if kind == "file" else None,
        "sha256": hashlib.sha256(content).hexdigest() if kind == "file" else None,
        "target": os.readlink(path) if kind == "symlink" else "",
        "xattrs": {name: os.getxattr(path, name, follow_symlinks=False).hex()
                   for name in os.listxattr(path, follow_symlinks=False)},
        "ino": status.st_ino,
        "mtime": status.st_mtime_ns,
        "blocks": status.st_blocks,
    }

found = {}
for directory, directories, files in os.walk("."):
    for name in directories + files:
        path = os.path.join(directory, name)
        found[os.path.relpath(path)] = entry(path)
print(json.dumps(found))
"""
