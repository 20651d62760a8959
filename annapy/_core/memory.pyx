"""The engine's memory: the code; memory.pxd has the contract."""
import os
import weakref

from cpython.buffer cimport PyBUF_WRITABLE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from annapy import errors
from annapy._core.arena cimport ARENA_ANONYMOUS, arena_close, arena_create, arena_reserve
from annapy._core.atomics cimport (
    cas64, fetch_add, load32_acquire, load_relaxed, store32_release, store_release, store_seq,
)
from annapy._core.codec cimport OK
from annapy._core.events cimport events_close
from annapy._core.shard cimport Shard, shard_close, shard_init, shard_release, shard_take
from annapy._core.table cimport Root, ShardHeader

cdef enum:
    SHARDS_MAX = 64
    HAZARDS_MAX = 1 << 20


_engines = weakref.WeakSet()      # for fork: the child must not go on where the parent does


def _before_fork() -> None:
    for engine in list(_engines):
        (<Memory>engine).hold_still()


def _after_fork_in_parent() -> None:
    for engine in list(_engines):
        (<Memory>engine).go_on()


def _after_fork_in_child() -> None:
    for engine in list(_engines):
        (<Memory>engine).become_child()
        (<Memory>engine).go_on()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                    after_in_child=_after_fork_in_child)


cdef class Pin:
    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a stored payload is immutable: copy it to change it")
        self.shape[0] = self.nbytes
        self.strides[0] = 1
        buffer.buf = <void*>self.cell
        buffer.obj = self
        buffer.len = self.nbytes
        buffer.itemsize = 1
        buffer.readonly = 1
        buffer.format = "B"
        buffer.ndim = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL

    def __dealloc__(self):
        if self.hazard >= 0:
            fetch_add(&self.memory.pinned_bytes, -<int64_t>self.nbytes)
            self.memory.hazard_clear(self.hazard)


cdef class Memory:
    """See memory.pxd. Sizes in bytes."""

    def __cinit__(self, uint64_t capacity, uint32_t shards=1, *, uint64_t actor, uint32_t client=0,
                  bint evict=False, uint64_t hash_seed=0, int arena_kind=ARENA_ANONYMOUS,
                  bytes path=None):
        cdef uint32_t i
        cdef int status
        if not 1 <= shards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {shards}")
        if capacity < (<uint64_t>1 << 20) * shards:
            raise ValueError("capacity must be at least 1 MiB a shard")
        self.seed = hash_seed or int.from_bytes(os.urandom(8), "little") | 1
        status = arena_create(&self.arena, capacity, arena_kind,
                              NULL if path is None else <const char*>path, self.seed, actor)
        if status != OK:
            raise errors.CapacityError(f"cannot map {capacity} bytes of memory",
                                       wanted_bytes=capacity)
        self.actor = actor
        self.client = client
        self.marks = evict
        offset = arena_reserve(&self.arena, sizeof(Root) + shards * sizeof(ShardHeader))
        self.hazards.slot = <uint64_t*>calloc(HAZARDS_MAX, 8)
        self.shards = <Shard*>calloc(shards, sizeof(Shard))
        if offset == 0 or self.hazards.slot == NULL or self.shards == NULL:
            raise errors.CapacityError("no memory for the shards' headers")
        self.hazards.slots = HAZARDS_MAX
        self.root = <Root*>(self.arena.base + <uint64_t>offset)
        self.root.shards = shards
        self.arena.header.root = offset
        self.arena.header.shards = shards
        self.pinned_bytes_max = capacity // 4
        self.shard_count = shards
        for i in range(shards):
            if shard_init(&self.shards[i], &self.arena, self.root, i, &self.hazards, &self.clock,
                          actor, capacity // shards * 15 // 16) != OK:
                raise errors.CapacityError("no memory for the shards' index: raise capacity=")
            self.shards[i].evicts = evict
        self.watchers = {}
        _engines.add(self)

    def __dealloc__(self):
        cdef uint32_t i
        if self.shards != NULL:
            for i in range(self.shard_count):
                shard_close(&self.shards[i])
        events_close(&self.events)
        free(self.shards)
        free(self.hazards.slot)
        if self.arena.base != NULL:
            arena_close(&self.arena)

    # --- life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse everything from now on. Memory goes when the last view does."""
        self.closed = True
        self.backing = None
        self.loader = None
        self.wake = None
        self.cut = None
        self.watchers.clear()

    cdef int check(self) except -1:
        if self.closed:
            raise errors.StoreClosed("the store is closed: open it again")
        return 0

    def hold_still(self) -> None:
        """Take every shard, for a fork."""
        cdef uint32_t i
        with nogil:
            for i in range(self.shard_count):
                shard_take(&self.shards[i])

    def go_on(self) -> None:
        """Give every shard back."""
        cdef uint32_t i
        for i in range(self.shard_count):
            shard_release(&self.shards[i])

    def become_child(self) -> None:
        """After a fork: a copy of the memory, in whose name nothing more may be minted."""
        cdef uint32_t i
        self.actor = int.from_bytes(os.urandom(8), "little") << 20 & 0xFFFFFFFFFFFFFFFF | 1
        for i in range(self.shard_count):
            self.shards[i].actor = self.actor
            self.shards[i].mail = 0      # of threads that are not in the child
        self.foreign = self.backed
        self.watchers.clear()
        self.on_event = None

    # --- hazards --------------------------------------------------------------------------------

    cdef int64_t hazard_set(self, uint64_t offset) noexcept nogil:
        """A slot that names `offset`, or -1: all taken. The caller then validates once more."""
        cdef uint32_t tries, at = self.hazard_hint
        cdef uint32_t high
        for tries in range(self.hazards.slots):
            high = load32_acquire(&self.hazards.high)
            if at > high or at >= self.hazards.slots:
                at = 0
            if load_relaxed(&self.hazards.slot[at]) == 0:
                if at >= high:
                    store32_release(&self.hazards.high, at + 1)
                if cas64(&self.hazards.slot[at], 0, offset):
                    store_seq(&self.hazards.slot[at], offset)
                    self.hazard_hint = at
                    return at
            at += 1
        return -1

    cdef void hazard_clear(self, int64_t at) noexcept nogil:
        store_release(&self.hazards.slot[at], 0)
        self.hazard_hint = <uint32_t>at
