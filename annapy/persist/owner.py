"""Who owns a store's directory: a POSIX record lock on DIR/owner, held while the store is open.

Owns     DIR/owner: one descriptor a process and directory, its lock, and the text in it.
Callers  env (opening for writing), recover (the opening tokens).

    text     `name value` lines, padded with newlines to TEXT_SIZE and written by one pwrite, so
             that a reader never sees half of it: pid, host, since, boot, store, tokens

Invariants
    the lock is held  <=>  this process may open the environment for writing
    while it is held, no other descriptor of DIR/owner is closed in this process: POSIX drops a
        process's record locks on a file when it closes *any* descriptor of it
    the kernel releases the lock when its process ends, however it ends; the text may be stale

Why a record lock: flock and OFD locks belong to the descriptor and outlive their owner in forked
children; a pid in a file is not an identity. A child does not inherit a record lock.
"""
from __future__ import annotations

import os
import threading
import time

from annapy.errors import CorruptCellError, StoreLocked
from annapy.persist.faults import translate

__all__ = ["Owner", "after_fork", "boot_id", "read_text"]

NAME = "owner"
TEXT_SIZE = 512

_registry_lock = [threading.Lock()]    # in a list, so that a forked child can have a fresh one
_registry: dict[tuple[int, int], tuple[int, str]] = {}   # directory's identity -> (pid, path)


def after_fork() -> None:
    """In a child: the locks are its parent's, and so may be the lock on the list of them."""
    _registry_lock[0] = threading.Lock()
    _registry.clear()


def boot_id() -> str:
    """This boot of the machine as the kernel names it, or "" where it doesn't."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def read_text(fd: int) -> dict[str, str]:
    """What an owner wrote into its file; {} if nothing."""
    lines = os.pread(fd, TEXT_SIZE, 0).decode("utf-8", "replace").splitlines()
    pairs = (line.partition(" ") for line in lines)
    return {name: value for name, _, value in pairs if name}


def _identity(directory: str) -> tuple[int, int]:
    status = os.stat(directory)
    return status.st_dev, status.st_ino


def _locked_message(directory: str, text: dict[str, str]) -> str:
    pid = text.get("pid", "unknown")
    return (
        f"{directory!r} is owned by pid {pid} on host {text.get('host', 'unknown')} "
        f"since {text.get('since', 'unknown')}; close that store first, or open this one with "
        "readonly=True"
    )


class Owner:
    """The lock on one directory. Made by `Owner.acquire`; `release` gives it back."""

    __slots__ = ("_fd", "_key", "_pid", "directory", "text")

    def __init__(self, directory: str, fd: int, key: tuple[int, int], text: dict[str, str]) -> None:
        self.directory = directory
        self._fd = fd
        self._key = key
        self._pid = os.getpid()
        self.text = text               # as the previous owner left it, until `announce`

    @classmethod
    def acquire(cls, directory: str) -> Owner:
        """Take the lock at once, or raise StoreLocked naming who has it. Never waits."""
        key = _identity(directory)
        with _registry_lock[0]:
            held = _registry.get(key)
            if held is not None and held[0] == os.getpid():
                raise StoreLocked(
                    f"{directory!r} is already open in this process (pid {held[0]}); share that "
                    "Store between the threads, or close it first",
                    path=directory, owner=f"pid {held[0]}",
                )
            fd = cls._lock(directory)
            _registry[key] = (os.getpid(), directory)
        return cls(directory, fd, key, read_text(fd))

    @staticmethod
    def _lock(directory: str) -> int:
        import fcntl

        path = os.path.join(directory, NAME)
        for _ in range(16):            # somebody may replace the file between open and lock
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise translate(error, directory, "opening the owner file") from error
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                text = read_text(fd)
                os.close(fd)
                raise StoreLocked(
                    _locked_message(directory, text),
                    path=directory, owner=f"pid {text.get('pid', 'unknown')}",
                ) from None
            except OSError as error:
                os.close(fd)
                raise translate(error, directory, "locking the owner file") from error
            try:
                if _same_file(fd, path):
                    return fd
            except OSError:
                pass
            os.close(fd)
        raise StoreLocked(f"{directory!r}: the owner file keeps being replaced", path=directory)

    def tokens(self) -> list[str]:
        """The opening tokens that the last owner vouched for."""
        return self.text.get("tokens", "").split()

    def refuse_if_lost(self) -> None:
        """There is no data file: fine, unless the last owner had one."""
        if self.text.get("store"):
            raise CorruptCellError(
                f"{self.directory!r} was the store {self.text['store']}, but its data.mdb is gone; "
                "restore a backup, or remove the file `owner` in it to begin an empty store"
            )

    def announce(self, store: int, tokens: list[bytes]) -> None:
        """Write who owns which store now, and the tokens that its data file may carry."""
        host = os.uname().nodename[:64]
        lines = [
            f"pid {os.getpid()}",
            f"host {host}",
            f"since {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}",
            f"boot {boot_id()}",
            f"store {store:016x}",
            f"tokens {' '.join(token.hex() for token in tokens)}",
        ]
        text = "\n".join(lines).encode().ljust(TEXT_SIZE, b"\n")[:TEXT_SIZE]
        try:
            os.pwrite(self._fd, text, 0)
        except OSError as error:
            raise translate(error, self.directory, "writing the owner file") from error

    def release(self) -> None:
        """Give the lock back; again is fine. In a forked child, which never had it: nothing."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        if os.getpid() != self._pid:
            return
        with _registry_lock[0]:
            _registry.pop(self._key, None)
            os.close(fd)               # which releases the lock


def _same_file(fd: int, path: str) -> bool:
    here, there = os.fstat(fd), os.stat(path)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
