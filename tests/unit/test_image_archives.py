"""Archives of images: what is made of honest ones, and how all others are refused."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from mulligan.guest.imports.bounds import RefusedError
from mulligan.guest.imports.unpack import steps
from support.images import BOUNDS, Oci, bash, digest, docker, entry, hard, link, tar


class Unpacker:
    """Unpacks archives in a directory of the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.root = directory / "to" / "tree"

    def __call__(self, archive: bytes | Path, reference: str | None = None, **bounds) -> dict:
        source = archive if isinstance(archive, Path) else self._directory / "archive"
        if isinstance(archive, bytes):
            source.write_bytes(archive)
        (self._directory / "to").mkdir()
        arguments = {"source": str(source), "target": str(self._directory / "to")}
        lines = list(steps(arguments | {"reference": reference} | BOUNDS | bounds))
        return lines[-1]["image"]


@pytest.fixture
def unpack(tmp_path: Path) -> Unpacker:
    return Unpacker(tmp_path)


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*")}


def test_a_plain_tar(unpack: Unpacker) -> None:
    image = unpack(
        tar(
            entry("./"),
            bash(),
            entry("./etc/motd", b"hello", mode=0o440),
            link("lib", "usr/lib"),
            entry("usr/lib/"),
            entry("lib/a.so", b"a"),  # through the link, in the tree
            hard("usr/lib/b.so", "lib/a.so"),
            entry("usr/bin/su", b"", mode=0o6755),
            entry("dev/sda", type=tarfile.BLKTYPE),
            entry("pipe", type=tarfile.FIFOTYPE),
            link("evil", "../../../../etc/passwd"),
            entry(".wh.kept", b""),  # no layer: a name like any other
        )
    )
    root = unpack.root
    assert image["kind"] == "tar"
    assert image["programs"] == {"bash": "/bin/bash"}
    assert image["left_out"] == {"device": 1}
    assert (root / "etc/motd").read_bytes() == b"hello"
    assert stat.S_IMODE((root / "etc/motd").stat().st_mode) == 0o640
    assert (root / "usr/lib/a.so").samefile(root / "usr/lib/b.so")
    assert stat.S_IMODE((root / "usr/bin/su").stat().st_mode) == 0o755
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert os.readlink(root / "evil") == "../../../../etc/passwd"
    assert (root / ".wh.kept").is_file()
    assert not (root / "dev/sda").exists()


def test_what_vms_need_is_there_whatever_the_archive_has(unpack: Unpacker) -> None:
    unpack(
        tar(
            bash(),
            link("proc", "etc"),
            link("run", "../outside"),
            entry("packages", b"a file"),
            link("home", "usr/home"),
            entry("etc/"),
            link("etc/passwd", "../secret"),
            entry("secret", b"kept"),
            entry("etc/group", b"root:x:0:\nnode:x:1000:\n"),
        )
    )
    root = unpack.root
    for place in ("proc", "dev", "sys", "run/mulligan", "packages", "workspace", "home/agent"):
        assert stat.S_ISDIR((root / place).lstat().st_mode), place
        assert not any(above.is_symlink() for above in (root / place).parents)
    assert (root / "secret").read_bytes() == b"kept"
    assert (root / "etc/passwd").read_text().startswith("agent:x:1000:1000::/home/agent:/bin/bash")
    assert (root / "etc/group").read_text() == "agent:x:1000:\nroot:x:0:\nnode:x:1000:\n"


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, bz2.compress, lzma.compress, bytes],
    ids=["gzip", "bzip2", "xz", "plain"],
)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_formats_and_compressions_make_the_same(tmp_path: Path, pack, form: int) -> None:
    long = f"{'d' * 90}/{'f' * 90}"
    archive = pack(tar(bash(), entry(long, b"x"), entry("a b\nc", b"y"), form=form))
    (tmp_path / "one").mkdir()
    unpack = Unpacker(tmp_path / "one")
    found = unpack(archive)
    assert (unpack.root / long).read_bytes() == b"x"
    assert (unpack.root / "a b\nc").read_bytes() == b"y"
    (tmp_path / "two").mkdir()
    assert (
        Unpacker(tmp_path / "two")(
            Oci(tar(bash(), entry(long, b"x"), entry("a b\nc", b"y"))).tar()
        )["digest"]
        == found["digest"]
    )


LAYERS = (
    tar(
        bash(),
        entry("a/one", b"1"),
        entry("a/two", b"2"),
        entry("b/c/deep", b"d"),
        entry("x", b"x"),
    ),
    tar(
        entry("a/three", b"3"),
        entry("a/.wh..wh..opq"),  # hides what is below, not what came before it in this layer
        entry("b/.wh.c"),
        entry("b/c/new", b"n"),
        entry(".wh.nothing"),
        entry(".wh..wh.plnk", b"aufs"),
        entry("x/", mode=0o700),  # a directory in place of a file
    ),
    tar(entry("a/four", b"4"), entry("b", b"now a file")),
)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: Oci(*LAYERS).tar(),
        lambda path: gzip.compress(Oci(*LAYERS).tar()),
        lambda path: Oci(*LAYERS).write(path / "layout"),
        lambda path: docker(*LAYERS),
        lambda path: gzip.compress(docker(*LAYERS)),
    ],
    ids=["oci", "oci.gz", "oci directory", "docker", "docker.gz"],
)
def test_layers_hide_what_is_below_them(unpack: Unpacker, tmp_path: Path, make) -> None:
    unpack(make(tmp_path))
    root = unpack.root
    assert names(root / "a") == {"three", "four"}
    assert (root / "b").read_bytes() == b"now a file"
    assert (root / "x").is_dir()
    assert not any(".wh." in name for name in names(root))


def test_layers_that_docker_shares_by_links(unpack: Unpacker) -> None:
    base = tar(bash(), entry("f", b"f"))
    archive = docker(base, base)
    with tarfile.open(fileobj=io.BytesIO(archive)) as old:
        kept = [(each, old.extractfile(each).read()) for each in old]
    kept = [each for n, each in enumerate(kept) if n < 3]
    layer = kept[2][0].name
    manifest = kept[0][1].replace(f'"{layer}"]'.encode(), b'"other/layer.tar"]')
    unpack(tar(entry("manifest.json", manifest), *kept[1:], link("other/layer.tar", f"../{layer}")))
    assert (unpack.root / "f").read_bytes() == b"f"


def test_the_environment_and_the_machine_of_an_image(unpack: Unpacker) -> None:
    env = ["PATH=/opt/bin:relative:/bin", "LANG=C", "ODD", "NUL=\0", "LINES=a\nb", "RUSTUP_HOME=/r"]
    image = unpack(Oci(tar(bash(), entry("opt/bin/node", b"#!")), env=env).tar())
    assert image["search"] == ["/opt/bin", "/bin"]
    assert image["env"] == {"LANG": "C", "RUSTUP_HOME": "/r"}
    assert image["programs"] == {"bash": "/bin/bash", "javascript": "/opt/bin/node"}


def test_holes_stay_holes(unpack: Unpacker, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.write(b"begin")
        file.seek(100 << 20)
        file.write(b"end")
    root = tmp_path / "r"
    (root / "bin").mkdir(parents=True)
    (root / "bin/bash").write_bytes(bash()[1])
    (root / "bin/bash").chmod(0o755)
    sparse.rename(root / "sparse")
    archive = tmp_path / "sparse.tar"
    assert os.system(f"tar -C {root} --sparse -cf {archive} .") == 0
    assert archive.stat().st_size < 1 << 20
    unpack(archive)
    made = unpack.root / "sparse"
    assert made.stat().st_size == (100 << 20) + 3
    assert made.stat().st_blocks * 512 < 1 << 20
    with made.open("rb") as file:
        assert file.read(5) == b"begin"
        file.seek(100 << 20)
        assert file.read() == b"end"


def test_of_several_images_one_is_meant(unpack: Unpacker) -> None:
    one, two = Oci(tar(bash(), entry("one", b""))), Oci(tar(bash(), entry("two", b"")))
    name = "org.opencontainers.image.ref.name"
    other = {"platform": {"os": "linux", "architecture": "s390x"}}
    one.blobs |= two.blobs
    one.index["manifests"] = [
        one.put(one.manifest, annotations={name: "first"}),
        one.put(two.manifest, annotations={name: "second"}),
        one.put(b"{}", **other),
    ]
    with pytest.raises(RefusedError, match=r"it has 2 images.*--ref.*first, second"):
        list(unpack(one.tar()))
    os.rmdir(unpack.root.parent)
    unpack(one.tar(), "second")
    assert (unpack.root / "two").exists()
    assert not (unpack.root / "one").exists()


def _broken(oci: Oci, name: str, data: bytes) -> bytes:
    """A layout with another blob in place of one."""
    oci.blobs[name] = data
    return oci.tar()


def _with(oci: Oci, **fields) -> bytes:
    oci.index |= fields
    return oci.tar()


def _cut(data: bytes, at: int) -> bytes:
    return data[:at]


def _pax(**headers: str) -> tuple[tarfile.TarInfo, bytes]:
    info, content = entry("plain", b"")
    info.pax_headers = headers
    return info, content


def _nested() -> bytes:
    """A header that describes a header that describes a header…"""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
    block = info.tobuf(tarfile.GNU_FORMAT) + b"n".ljust(512, b"\0")
    return block * 5000


def _index_of_indexes() -> bytes:
    oci = Oci(tar(bash()))
    inner = oci.manifest
    for _ in range(6):
        document = b'{"manifests": [{"digest": "%s", "size": %d}]}'
        put = oci.put(inner)
        inner = document % (put["digest"].encode(), put["size"])
    oci.index["manifests"] = [oci.put(inner)]
    return oci.tar()


def _huge_sparse() -> bytes:
    headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": str(1 << 60),
        "GNU.sparse.map": "0,0",
        "GNU.sparse.numblocks": "1",
    }
    return tar(bash(), _pax(**headers))


BASE = tar(bash())
GOOD = Oci(BASE)
LAYER = digest(gzip.compress(BASE, mtime=0))
REFUSED = {
    "absolute": (tar(bash(), entry("/etc/x", b"")), "absolute path: '/etc/x'"),
    "dots": (tar(bash(), entry("a/../../x", b"")), r"\.\. in its path"),
    "dots in a layer": (Oci(tar(bash(), entry("../x", b""))).tar(), r"\.\. in its path"),
    "nul in a name": (tar(bash(), _pax(path="a\0b")), "NUL in its name|damaged"),
    "long name": (tar(bash(), entry("n" * 256, b"")), "more than 255 bytes"),
    "deep": (tar(bash(), entry("d/" * 300 + "f", b"")), "too deep"),
    "hard link out": (tar(bash(), hard("h", "../../etc/passwd")), r"\.\. in its path"),
    "hard link to an absolute path": (tar(bash(), hard("h", "/etc/passwd")), "absolute path"),
    "hard link to nothing": (tar(bash(), hard("h", "no/such")), "leads to no file of the image"),
    "hard link to a directory": (tar(bash(), entry("d/"), hard("h", "d")), "leads to no file"),
    "through a file": (tar(bash(), entry("f", b""), entry("f/g", b"")), "lies below a file"),
    "links in a circle": (
        tar(bash(), link("a", "b"), link("b", "a"), entry("a/x", b"")),
        "links lead in a circle",
    ),
    "whiteout of the directory above": (Oci(BASE, tar(entry("a/.wh..."))).tar(), "whiteout of"),
    "unknown kind": (tar(bash(), entry("odd", b"", type=b"V")), "no known kind|lies below"),
    "no tar": (b"this is not an archive at all" * 100, "no tar, or damaged"),
    "empty": (b"", "no tar, or damaged"),
    "cut off in a header": (_cut(tar(bash(), entry("f", b"")), 1124), "no tar, or damaged"),
    "cut off in a file": (_cut(tar(bash(), entry("f", b"x" * 5000)), 3000), "cut off|damaged"),
    "damaged header": (BASE[:1024] + b"\xff" * 512 + BASE[1024:], "no tar, or damaged"),
    "headers without end": (_nested(), "no tar"),
    "cut off gzip": (_cut(gzip.compress(BASE + os.urandom(4096)), 3000), "cannot be decompressed"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd|decompressed"),
    "a bomb": (lambda: gzip.compress(BASE + bytes(65 << 20), 1), "a bomb"),
    "a bomb in a layer": (lambda: Oci(tar(bash(), entry("z", bytes(65 << 20)))).tar(), "a bomb"),
    "a file of an exabyte": (_huge_sparse(), "more than 1024 MiB"),
    "nothing to run": (tar(entry("etc/x", b"")), "nothing could run there"),
    "another machine": (
        tar(entry("bin/bash", b"\x7fELF\x02\x01" + bytes(12) + b"\x16\x00" + bytes(44))),
        "for another machine",
    ),
    "a changed layer": (_broken(Oci(BASE), LAYER, bytes(len(GOOD.blobs[LAYER]))), "digest says"),
    "a longer layer": (_broken(Oci(BASE), LAYER, GOOD.blobs[LAYER] + b"x"), "not the size"),
    "a layer of another image": (
        Oci(BASE, rootfs={"diff_ids": [digest(b"other")]}).tar(),
        "a layer is not what its image says",
    ),
    "layers without identity": (Oci(BASE, rootfs={"diff_ids": []}).tar(), "of 0 layers"),
    "no such platform": (
        _with(Oci(BASE), manifests=[{"platform": {"os": "linux", "architecture": "s390x"}}]),
        "has no image for linux/",
    ),
    "an index of nothing": (_with(Oci(BASE), manifests=7), "no list manifests"),
    "an odd digest": (
        _with(Oci(BASE), manifests=[{"digest": "sha256:../../../../etc/passwd", "size": 1}]),
        "no digest",
    ),
    "a missing blob": (
        _with(Oci(BASE), manifests=[{"digest": digest(b"gone"), "size": 4}]),
        "is not in the archive",
    ),
    "indexes without end": (_index_of_indexes(), "name each other without end"),
    "documents that are deep": (
        tar(entry("oci-layout", b"{}"), entry("index.json", b"[" * 100_000)),
        "no JSON",
    ),
    "a docker layer that is not there": (docker(BASE, Layers=["../../etc/passwd"]), "not in the"),
}


@pytest.mark.parametrize(("archive", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    unpack: Unpacker, tmp_path: Path, archive: bytes | Callable[[], bytes], why: str
) -> None:
    """A callable makes what takes a while to make."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("outside")
    before = names(tmp_path) | {"archive", "to"}
    with pytest.raises(RefusedError, match=why):
        unpack(archive() if callable(archive) else archive)
    assert {name for name in names(tmp_path) if not name.startswith("to/")} == before
    assert "outside" not in [path.read_text() for path in unpack.root.rglob("passwd")]


def test_links_are_followed_in_the_tree_alone(unpack: Unpacker, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    up = "../" * 30
    unpack(
        tar(
            bash(),
            link("a", f"{up}{outside}"),
            link("b", str(outside)),
            entry("a/one", b"1"),
            entry("b/two", b"2"),
            link("c", "a"),
            entry("c/three", b"3"),
            link("over", str(outside)),
            entry("over", b"a file in place of the link"),
        )
    )
    assert not list(outside.iterdir())
    assert names(unpack.root / str(outside)[1:]) == {"one", "two", "three"}
    assert (unpack.root / "over").read_bytes() == b"a file in place of the link"


def test_whiteouts_follow_no_link_out(unpack: Unpacker, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    lower = tar(bash(), link("l", str(outside)), link("m", "../" * 30 + str(outside)[1:]))
    unpack(Oci(lower, tar(entry("l/.wh.kept"), entry("m/.wh..wh..opq"), entry(".wh.l"))).tar())
    assert (outside / "kept").read_text() == "kept"
    assert not os.path.lexists(unpack.root / "l")


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        ({"most_entries": 3}, "more than 3 entries"),
        ({"most_bytes": 5000}, "images.max_mb"),
        ({"min_free": 1 << 60}, "min_free_mb"),
    ],
)
def test_bounds(unpack: Unpacker, bounds: dict, why: str) -> None:
    many = [entry(f"f{n}", b"x" * 2000) for n in range(4)]
    if "min_free" in bounds:
        many = [entry("large", os.urandom(1 << 20) * 65)]
    with pytest.raises(RefusedError, match=why):
        unpack(tar(bash(), *many), **bounds)


SAMPLES = {
    "oci": Oci(*LAYERS).tar(),
    "docker": docker(*LAYERS),
    "tar": tar(
        bash(), entry("a/b", b"x"), link("l", "a"), hard("h", "a/b"), _pax(comment="c" * 600)
    ),
    "gnu": tar(bash(), entry("n" * 150, b"x"), form=tarfile.GNU_FORMAT),
    "gzip": gzip.compress(LAYERS[0]),
}


@settings(max_examples=60, deadline=None)
@given(data=strategies.data(), sample=strategies.sampled_from(sorted(SAMPLES)))
def test_damaged_archives_are_refused_or_taken_but_never_more(
    data: strategies.DataObject, sample: str
) -> None:
    archive = bytearray(SAMPLES[sample])
    for _ in range(data.draw(strategies.integers(1, 6))):
        place = data.draw(strategies.integers(0, len(archive) - 1))
        piece = data.draw(strategies.binary(min_size=1, max_size=12))
        archive[place : place + len(piece)] = piece
    with tempfile.TemporaryDirectory() as name:
        with contextlib.suppress(RefusedError, OSError):
            Unpacker(Path(name))(bytes(archive), most_bytes=1 << 20)
        assert {path.name for path in Path(name).iterdir()} == {"archive", "to"}
        assert {path.name for path in (Path(name) / "to").iterdir()} <= {"archive", "tree"}
