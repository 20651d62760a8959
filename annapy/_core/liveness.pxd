# cython: language_level=3
"""Whether a process is alive: a lock that the kernel takes away when it dies.

Owns    the rules of a lock file; the descriptors stay the caller's.
Callers a process that claims an identity, and whoever asks after it.

An identity is one byte of a file, locked by a POSIX record lock (fcntl(2), F_SETLK). The kernel
releases it when the process ends, however it ends, and never before; a forked child does not
inherit it, so a child is nobody until it claims an identity of its own. flock and open-file-
description locks live on in forked children and are not used; a pid is re-used and says nothing.

One trap decides the rules: a process loses its record locks on a file as soon as it closes *any*
descriptor of that file. So a process opens a lock file exactly once (`Locks`, below), keeps it
until it exits, and asks after others through the same descriptor. Within the process that holds
the lock F_GETLK reports none (a process does not conflict with itself): it knows its own.

Invariants
    held(byte)  =>  the process that claimed it has not ended (frozen is not ended)
    a claim is exclusive: of any number of processes that try, one gets it
"""
from libc.stdint cimport uint64_t

cdef int lock_claim(int fd, uint64_t byte) noexcept nogil
# OK; BUSY: another process has it; BAD_OPERATION: the file system has no locks.
cdef int lock_release(int fd, uint64_t byte) noexcept nogil
cdef int lock_held(int fd, uint64_t byte, int* pid) noexcept nogil
# 1: another living process holds it (pid: as this pid namespace sees it, or 0), 0: none does,
# or a negative Status.
