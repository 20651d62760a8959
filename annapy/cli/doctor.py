"""doctor: what annapy needs from a machine and finds there; with --store, what a store looks like.

Each check looks and judges: `ok`, `warn` (works, but know this) or `fail` (will not work). Nothing
is changed: the only file written is a temporary one in the folder that is judged.
"""
from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import click

from annapy.cli.app import DONE, MISSING, open_store, verb
from annapy.cli.output import duration_words, size_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from annapy.cli.output import Output

__all__ = ["doctor_verb"]

OK, WARN, FAIL = "ok", "warn", "fail"
# Memory maps of LMDB need a file system of this machine; these are not.
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "lustre"}
VOLATILE = {"tmpfs", "ramfs"}
SYNCS = 7
SYNC_SLOW_NS = 50_000_000
FREE_LOW = 1 << 30
EPOCH_MIN = 1_700_000_000  # a clock before this (November 2023) was never set


class Finding(NamedTuple):
    """One line of the report."""

    subject: str
    verdict: str
    detail: str


@click.command("doctor")
@click.option("--store", "target", envvar="ANNAPY_URL", metavar="STORE",
              help="Also judge this store, and the file system below it [env: ANNAPY_URL].")
@verb
def doctor_verb(out: Output, target: str | None) -> int:
    """Judge the machine and, with --store, a store; status 1 if something will not work."""
    findings = [*interpreter(), *libraries(), *memory(), *processes(), *clocks()]
    findings += file_system(folder_of(target))
    if target:
        findings += store_report(target)
    failed = sum(finding.verdict == FAIL for finding in findings)
    if out.as_json:
        out.line({"failed": failed, "findings": [finding._asdict() for finding in findings]})
    else:
        out.table(("", "", ""), findings)
        out.say("Nothing stands in the way." if not failed else f"{failed} will not work.")
    return MISSING if failed else DONE


def folder_of(target: str | None) -> Path:
    """The folder whose file system counts: the store's, or the first above it that is there."""
    if not target or target.startswith(("mem:", "anna:")):
        return Path.cwd()
    folder = Path(target.partition("://")[2].partition("?")[0] if "://" in target else target)
    while not folder.exists():
        folder = folder.parent
    return folder


def interpreter() -> Iterator[Finding]:
    """The interpreter and the system below it."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    version = f"{platform.python_implementation()} {platform.python_version()}"
    fits = sys.version_info >= (3, 10) and platform.python_implementation() == "CPython"
    yield Finding("Python", OK if fits else FAIL, f"{version}, GIL {'on' if gil else 'off'}")
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    little = sys.byteorder == "little" and sys.maxsize > 2**32
    yield Finding("system", OK if little else FAIL,
                  system + ("" if little else ": a 64-bit little-endian machine is needed"))


def libraries() -> Iterator[Finding]:
    """The packages that annapy calls; a missing one is told with what to type."""
    for name in ("numpy", "lmdb", "zmq", "msgspec"):
        try:
            module = __import__(name)
        except ImportError as error:
            yield Finding(name, FAIL, f"{error}; pip install --force-reinstall annapy")
            continue
        detail = str(module.__version__)
        if name == "lmdb":
            detail += f", LMDB {'.'.join(map(str, module.version()))}"
        if name == "zmq":
            detail += f", libzmq {module.zmq_version()}"
        yield Finding(name, OK, detail)


def memory() -> Iterator[Finding]:
    """What this process may use, and what a store would take of it."""
    from annapy.options import default_capacity, memory_limit

    limit, capacity = memory_limit(), default_capacity()
    small = capacity < 64 << 20
    yield Finding("memory", WARN if small else OK,
                  f"{size_words(limit)} allowed here; a store takes {size_words(capacity)} unless"
                  " capacity= says otherwise")


def processes() -> Iterator[Finding]:
    """Cores, threads, descriptors, and whether the host mode's memory files can be made."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("processes", OK, f"{cores} cores, {threading.active_count()} thread here,"
                  f" fork {'there' if hasattr(os, 'fork') else 'missing'}")
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", OK if soft >= 256 else WARN, f"{soft} (at most {hard})")
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY:
        yield Finding("file size", WARN, f"limited to {size_words(largest)}: a store on disk stops"
                      " growing there")


def clocks() -> Iterator[Finding]:
    """The wall clock orders writes; the steady one measures them."""
    now = time.time()
    resolution = time.get_clock_info("monotonic").resolution
    day = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    yield Finding("clock", OK if now > EPOCH_MIN else FAIL,
                  f"{day}; steady clock in steps of {duration_words(resolution * 1e9)}"
                  + ("" if now > EPOCH_MIN else ": set the clock, the last write wins by it"))


def mount_of(folder: Path) -> tuple[str, str]:
    """(mount point, type) of the file system that `folder` lies on, by the kernel's table."""
    best = ("/", "unknown")
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return best
    path = str(folder.resolve())
    for line in lines:
        _, point, kind = line.split(" ")[:3]
        if (path == point or path.startswith(point.rstrip("/") + "/")) and \
                len(point) >= len(best[0]):
            best = (point, kind)
    return best


def file_system(folder: Path) -> Iterator[Finding]:
    """Whether the folder can hold a store, and what a promise of durability costs there."""
    point, kind = mount_of(folder)
    verdict, remark = OK, ""
    if kind in REMOTE:
        verdict, remark = FAIL, ": LMDB's memory map needs a local file system"
    elif kind in VOLATILE:
        verdict, remark = WARN, ": in memory, so nothing on it survives the machine"
    yield Finding("file system", verdict, f"{folder}: {kind} on {point}{remark}")
    free = shutil.disk_usage(folder).free
    yield Finding("free space", OK if free > FREE_LOW else WARN, size_words(free))
    if not os.access(folder, os.W_OK):
        yield Finding("writing", WARN, f"{folder} cannot be written by this user: readonly=True")
        return
    spent = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".annapy-doctor-") as file:
        for _ in range(SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            start = time.perf_counter_ns()
            os.fsync(file.fileno())
            spent.append(time.perf_counter_ns() - start)
    typical = median(spent)
    yield Finding("fsync", WARN if typical > SYNC_SLOW_NS else OK,
                  f'{duration_words(typical)}: about what ack="disk" waits')


def store_report(target: str) -> Iterator[Finding]:
    """A look at the store, without changing it; `annapy check` verifies every cell."""
    from annapy import AnnapyError

    try:
        with open_store(target, readonly=True) as store:
            stats, keys = store.stats(), len(store)
    except (AnnapyError, OSError, ValueError) as error:
        yield Finding("store", FAIL, f"{target}: {error}")
        return
    yield Finding("store", OK, f"{target}: {keys:,} keys")
    disk = stats.get("disk") or {}
    yield Finding("store: size", OK, f"{size_words(disk.get('file_bytes', 0))} on disk")
    if disk.get("last_error"):
        yield Finding("store: last commit", FAIL, str(disk["last_error"]))
