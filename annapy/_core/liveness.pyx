"""Whether a process is alive; liveness.pxd has the contract."""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from annapy._core.codec cimport BAD_OPERATION, BUSY, OK
from bindings cimport linux

import os

__all__ = ["Locks"]


cdef void one_byte(linux.flock_t* lock, short kind, uint64_t byte) noexcept nogil:
    memset(lock, 0, sizeof(linux.flock_t))
    lock.l_type = kind
    lock.l_whence = linux.SEEK_SET
    lock.l_start = <int64_t>byte
    lock.l_len = 1


cdef int lock_set(int fd, uint64_t byte, short kind) noexcept nogil:
    cdef linux.flock_t lock
    one_byte(&lock, kind, byte)
    if linux.fcntl(fd, linux.F_SETLK, &lock) == 0:
        return OK
    if linux.errno == linux.EAGAIN or linux.errno == linux.EACCES:
        return BUSY
    return BAD_OPERATION


cdef int lock_claim(int fd, uint64_t byte) noexcept nogil:
    return lock_set(fd, byte, <short>linux.F_WRLCK)


cdef int lock_release(int fd, uint64_t byte) noexcept nogil:
    return lock_set(fd, byte, <short>linux.F_UNLCK)


cdef int lock_held(int fd, uint64_t byte, int* pid) noexcept nogil:
    cdef linux.flock_t lock
    one_byte(&lock, <short>linux.F_WRLCK, byte)
    if linux.fcntl(fd, linux.F_GETLK, &lock) != 0:
        return BAD_OPERATION
    if lock.l_type == linux.F_UNLCK:
        return 0
    pid[0] = lock.l_pid
    return 1


# path -> Locks of this process: a file is opened once. After a fork the child's table still has
# the parent's objects; their descriptors are kept open (closing one would be harmless to the
# parent, whose locks are its own) and used by the child, which holds nothing yet.
cdef dict opened = {}


cdef class Locks:
    """The identities in one lock file, as this process sees and claims them.

    `Locks.of(path)` is the same object for the same path in one process: the file is created
    (0600) and opened once, and stays open until the process ends, because closing any descriptor of
    it would drop every lock that the process holds in it. Nothing here blocks. Thread-safe under
    the GIL; without it, callers take turns. Raises OSError where the file system has no locks.
    """
    cdef readonly str path
    cdef int fd
    cdef set mine
    cdef int pid

    @staticmethod
    def of(str path not None) -> Locks:
        cdef Locks self
        path = os.path.realpath(path)
        self = opened.get(path)
        if self is None:
            self = Locks.__new__(Locks)
            self.path = path
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.mine = set()
            self.pid = os.getpid()
            self = opened.setdefault(path, self)
        return self

    cdef set own(self):
        """What this very process holds: a forked child starts with nothing."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            self.mine = set()
        return self.mine

    def claim(self, uint64_t byte) -> bool:
        """Takes an identity for this process; False: another living process has it."""
        cdef int status
        if byte in self.own():
            return True
        status = lock_claim(self.fd, byte)
        if status == BAD_OPERATION:
            raise OSError(linux.errno, "the file system refuses record locks", self.path)
        if status == OK:
            self.own().add(byte)
        return status == OK

    def release(self, uint64_t byte) -> None:
        """Gives an identity back; one that this process does not hold is left alone."""
        if byte in self.own():
            self.own().discard(byte)
            lock_release(self.fd, byte)

    def alive(self, uint64_t byte) -> bool:
        """Whether some living process, this one included, holds the identity."""
        cdef int pid = 0, held
        if byte in self.own():
            return True
        held = lock_held(self.fd, byte, &pid)
        if held < 0:
            raise OSError(linux.errno, "the file system refuses record locks", self.path)
        return held == 1

    def holder(self, uint64_t byte) -> int | None:
        """The holder's pid for messages (0: in another pid namespace); None: nobody."""
        cdef int pid = 0
        if byte in self.own():
            return self.pid
        return pid if lock_held(self.fd, byte, &pid) == 1 else None
