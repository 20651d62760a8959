"""Memory addressed by offset; arena.pxd has the contract and the layout."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

from annapy._core.atomics cimport (
    cas64, load_acquire, load_relaxed, store_relaxed, store_release, words_in, words_out)
from annapy._core.codec cimport BAD_OPERATION, CORRUPT, NO_MEMORY, OK, OVER_LIMIT
from annapy._core.mapping cimport (
    MAPPING_ANONYMOUS, MAPPING_FILE, MAPPING_SIZE_MAX, PAGE_SIZE, mapping_attach, mapping_close,
    mapping_commit, mapping_create, mapping_discard, mapping_reader_fd)
from annapy._core.pages cimport (
    PAGE_BINS, RUN_LARGE, RUN_SPAN, Pages, Run, pages_add, pages_clean, pages_close, pages_give,
    pages_open, pages_take)
from bindings cimport linux

cdef extern from *:
    """
    #define annapy_ctz64(x) __builtin_ctzll(x)
    """
    uint32_t ctz64 "annapy_ctz64"(uint64_t x) noexcept nogil

__all__ = ["Attached", "Memory"]

cdef uint64_t MAGIC = 0x31414E4552414E41     # "ANARENA1"
cdef enum:
    SPAN_BYTES_MIN = 4096
    SPAN_BYTES_MAX = 65536
    SPAN_SHARE = 16              # a new span is at most 1/16 of what its class has, if it can be
    SPAN_PAGES_MAX = 32
    MAGAZINE_BYTES = 65536       # a magazine holds that much, or 1/1024 of the capacity
    STEP_MIN = 16                # pages
    STEP_MAX = 1024
    PURGE_PAGES_MIN = 16         # shorter free runs keep their memory, unless trimmed
    DIRTY_MAX = 0x1000000        # 16 MiB

assert sizeof(ArenaHeader) == 96
assert sizeof(Magazine) == 256


# --- the arena ------------------------------------------------------------------------------

cdef inline uint64_t whole_pages(uint64_t size) noexcept nogil:
    return (size + PAGE_SIZE - 1) & ~<uint64_t>(PAGE_SIZE - 1)


cdef void read_boot_id(uint8_t* out) noexcept nogil:
    """The kernel's boot id as 16 bytes; zeros where there is none."""
    cdef uint8_t text[64]
    cdef ssize_t n, i
    cdef int digits = 0, x
    cdef int fd = linux.open("/proc/sys/kernel/random/boot_id", linux.O_RDONLY | linux.O_CLOEXEC)
    memset(out, 0, 16)
    if fd < 0:
        return
    n = linux.read(fd, text, sizeof(text))
    linux.close(fd)
    for i in range(n):
        x = text[i]
        if c'0' <= x <= c'9':
            x -= c'0'
        elif c'a' <= x <= c'f':
            x -= c'a' - 10
        else:
            continue
        if digits < 32:
            out[digits >> 1] = <uint8_t>((out[digits >> 1] << 4) | x)
            digits += 1


cdef int arena_create(Arena* arena, uint64_t capacity, int kind, const char* path,
                      uint64_t hash_seed, uint64_t actor) noexcept nogil:
    cdef int status
    cdef const char* name = path
    if kind == ARENA_MEMFD:
        name = "annapy"
    memset(arena, 0, sizeof(Arena))
    arena.map.fd = -1
    capacity = whole_pages(capacity)
    if capacity <= ARENA_HEADER_SIZE or capacity > MAPPING_SIZE_MAX:
        return OVER_LIMIT
    status = mapping_create(&arena.map, capacity, kind, name, 0o400)
    if status == BAD_OPERATION and kind == ARENA_MEMFD and path != NULL:
        status = mapping_create(&arena.map, capacity, MAPPING_FILE, path, 0o400)
    if status != OK:
        return status
    if mapping_commit(&arena.map, 0, PAGE_SIZE) != OK:
        mapping_close(&arena.map)
        return NO_MEMORY
    arena.base = arena.map.base
    arena.header = <ArenaHeader*>arena.base
    arena.capacity = capacity
    arena.header.layout = ARENA_LAYOUT
    arena.header.capacity = capacity
    arena.header.hash_seed = hash_seed
    arena.header.actor = actor
    read_boot_id(arena.header.boot_id)
    store_relaxed(&arena.header.cursor, ARENA_HEADER_SIZE)
    store_relaxed(&arena.header.reserved, PAGE_SIZE)
    store_release(&arena.header.magic, MAGIC)
    return OK


cdef int arena_attach(Arena* arena, int fd) noexcept nogil:
    cdef int status
    memset(arena, 0, sizeof(Arena))
    arena.map.fd = -1
    status = mapping_attach(&arena.map, fd, False)
    if status != OK:
        return status
    arena.base = arena.map.base
    arena.header = <ArenaHeader*>arena.base
    arena.capacity = arena.map.size
    if (load_acquire(&arena.header.magic) != MAGIC or arena.header.layout != ARENA_LAYOUT
            or arena.header.capacity != arena.map.size):
        arena_close(arena)
        return CORRUPT
    return OK


cdef void arena_close(Arena* arena) noexcept nogil:
    mapping_close(&arena.map)
    arena.base = NULL
    arena.header = NULL
    arena.capacity = 0


cdef int back_with_memory(Arena* arena, uint64_t end) noexcept nogil:
    """Everything below `end` has memory behind it. Threads may meet here: committing a range twice
    does no harm, and `reserved` only grows."""
    cdef uint64_t reserved = load_acquire(&arena.header.reserved), target
    if end <= reserved:
        return OK
    target = (end + RESERVE_STEP - 1) & ~<uint64_t>(RESERVE_STEP - 1)
    if target > arena.capacity:
        target = arena.capacity
    if mapping_commit(&arena.map, reserved, target - reserved) != OK:
        if target == end or mapping_commit(&arena.map, reserved, end - reserved) != OK:
            return NO_MEMORY
        target = end
    while reserved < target:
        if cas64(&arena.header.reserved, reserved, target):
            break
        reserved = load_acquire(&arena.header.reserved)
    return OK


cdef uint64_t arena_take(Arena* arena, uint64_t want, uint64_t least,
                         uint64_t* got) noexcept nogil:
    cdef uint64_t at, n
    want = whole_pages(want)
    least = whole_pages(least)
    while True:
        at = load_acquire(&arena.header.cursor)
        n = arena.capacity - at
        if n < least or n == 0 or least == 0:
            return 0
        if n > want:
            n = want
        if cas64(&arena.header.cursor, at, at + n):
            break
    if back_with_memory(arena, at + n) != OK:
        cas64(&arena.header.cursor, at + n, at)     # lost to all if another took some meanwhile
        return 0
    got[0] = n
    return at


cdef uint64_t arena_reserve(Arena* arena, uint64_t size) noexcept nogil:
    cdef uint64_t got = 0
    if size == 0 or size > arena.capacity:
        return 0
    return arena_take(arena, size, size, &got)


# --- the heap: pages ------------------------------------------------------------------------

cdef uint64_t class_size(uint32_t c) noexcept nogil:
    if c < 16:
        return 16 * (c + 1)
    c -= 16
    return (<uint64_t>256 << (c >> 3)) + <uint64_t>((c & 7) + 1) * (<uint64_t>32 << (c >> 3))


cdef uint64_t heap_rounded(uint64_t size) noexcept nogil:
    return class_size(class_of(size)) if size <= SMALL_MAX else whole_pages(size)


cdef int heap_init(Heap* heap, Arena* arena) noexcept nogil:
    cdef uint32_t c
    cdef uint64_t step = arena.capacity // 64 // PAGE_SIZE, kept = arena.capacity // 1024, limit
    memset(heap, 0, sizeof(Heap))
    heap.arena = arena
    heap.step = <uint32_t>(STEP_MIN if step < STEP_MIN else STEP_MAX if step > STEP_MAX else step)
    heap.dirty_max = arena.capacity // 32
    if heap.dirty_max > DIRTY_MAX:
        heap.dirty_max = DIRTY_MAX
    for c in range(HEAP_CLASSES):
        heap.magazine[c].size = class_size(c)
        limit = (MAGAZINE_BYTES if kept > MAGAZINE_BYTES else kept) // class_size(c)
        limit = HEAP_MAGAZINE if limit > HEAP_MAGAZINE else 2 if limit < 2 else limit
        heap.magazine[c].limit = <uint16_t>limit
    return pages_open(&heap.pages, arena.capacity)


cdef void heap_close(Heap* heap) noexcept nogil:
    pages_close(&heap.pages)
    memset(heap, 0, sizeof(Heap))


cdef uint32_t obtain(Heap* heap, uint32_t pages) noexcept nogil:
    """A run of `pages` with memory behind it, or 0."""
    cdef Pages* p = &heap.pages
    cdef uint32_t run = pages_take(p, pages)
    cdef uint64_t at, got = 0, size = <uint64_t>pages * PAGE_SIZE
    if run == 0:
        at = arena_take(heap.arena, <uint64_t>heap.step * PAGE_SIZE if pages < heap.step else size,
                        size, &got)
        if at == 0 or not pages_add(p, <uint32_t>(at // PAGE_SIZE), <uint32_t>(got // PAGE_SIZE)):
            return 0
        heap.held += got
        run = pages_take(p, pages)
        if run == 0:
            return 0
    if heap.punched and heap.arena.map.kind != MAPPING_ANONYMOUS:
        at = <uint64_t>p.runs[run].page * PAGE_SIZE
        if mapping_commit(&heap.arena.map, at, size) != OK:
            pages_give(p, run)
            return 0
    return run


cdef void purge(Heap* heap, uint32_t pages_min) noexcept nogil:
    """Memory of free runs of at least `pages_min` goes back to the system."""
    cdef Pages* p = &heap.pages
    cdef uint32_t b, run
    for b in range(PAGE_BINS):
        run = p.bin[b]
        while run:
            if p.runs[run].dirty and p.runs[run].pages >= pages_min:
                mapping_discard(&heap.arena.map, <uint64_t>p.runs[run].page * PAGE_SIZE,
                                <uint64_t>p.runs[run].pages * PAGE_SIZE)
                pages_clean(p, run)
                heap.punched = True
            run = p.runs[run].next
    heap.dirty_floor = p.dirty_pages * PAGE_SIZE


cdef void release(Heap* heap, uint32_t run) noexcept nogil:
    pages_give(&heap.pages, run)
    if heap.pages.dirty_pages * PAGE_SIZE > heap.dirty_floor + heap.dirty_max:
        purge(heap, PURGE_PAGES_MIN)


cdef uint64_t heap_reserve(Heap* heap, uint64_t size) noexcept nogil:
    cdef uint64_t at = arena_reserve(heap.arena, size), i
    cdef uint32_t run
    if at or size == 0 or size > heap.arena.capacity:
        return at
    heap_settle(heap)
    size = whole_pages(size)
    run = obtain(heap, <uint32_t>(size // PAGE_SIZE))
    if run == 0:
        return 0
    at = <uint64_t>heap.pages.runs[run].page * PAGE_SIZE
    for i in range(0, size, 8):
        store_relaxed(<uint64_t*>(heap.arena.base + at + i), 0)
    heap.held -= size
    return at


# --- the heap: spans ------------------------------------------------------------------------

cdef uint32_t span_pages(uint64_t size, uint32_t slabs, uint32_t part) noexcept nogil:
    """The shortest span of at least `slabs` that loses at most 1/part at its end, if there is
    one."""
    cdef uint32_t pages, best = 0
    cdef uint64_t lost, best_lost = 0
    for pages in range(<uint32_t>(whole_pages(slabs * size) // PAGE_SIZE), SPAN_PAGES_MAX + 1):
        lost = (pages * PAGE_SIZE) % size
        if lost * part <= pages * PAGE_SIZE:
            return pages
        if best == 0 or lost * best < best_lost * pages:
            best = pages
            best_lost = lost
    return best


cdef uint32_t span_obtain(Heap* heap, Magazine* m) noexcept nogil:
    """Pages for the next span. A class's spans grow with their number, so that what a class holds
    in vain is a small part of what it uses; under pressure a shorter one will do."""
    cdef uint64_t bytes = SPAN_BYTES_MIN
    cdef uint32_t slabs, run = 0
    while bytes < SPAN_BYTES_MAX and bytes * SPAN_SHARE < m.slabs * m.size:
        bytes *= 2
    slabs = <uint32_t>(bytes // m.size)
    while run == 0:
        slabs = slabs if slabs > 1 else 1
        run = obtain(heap, span_pages(m.size, slabs, 8 if bytes == SPAN_BYTES_MIN else 32))
        if slabs == 1:
            break
        slabs //= 4
    return run


cdef inline uint64_t* span_bits(Run* r) noexcept nogil:
    return r.bits if r.bits != NULL else &r.inline_bits


cdef void span_link(Heap* heap, Magazine* m, uint32_t run) noexcept nogil:
    """Last in the class's ring: the oldest partial span is filled first, so that spans which have
    just begun to drain may go on to drain."""
    cdef Run* runs = heap.pages.runs
    runs[run].linked = True
    if m.partial == 0:
        m.partial = run
        runs[run].next = run
        runs[run].prev = run
        return
    runs[run].next = m.partial
    runs[run].prev = runs[m.partial].prev
    runs[runs[run].prev].next = run
    runs[m.partial].prev = run


cdef void span_unlink(Heap* heap, Magazine* m, uint32_t run) noexcept nogil:
    cdef Run* runs = heap.pages.runs
    runs[run].linked = False
    if runs[run].next == run:
        m.partial = 0
        return
    runs[runs[run].next].prev = runs[run].prev
    runs[runs[run].prev].next = runs[run].next
    if m.partial == run:
        m.partial = runs[run].next


cdef bint span_new(Heap* heap, uint32_t c) noexcept nogil:
    cdef Magazine* m = &heap.magazine[c]
    cdef uint32_t run = span_obtain(heap, m), i, words
    cdef Run* r
    cdef uint64_t* bits
    if run == 0:
        return False
    r = &heap.pages.runs[run]
    r.slabs = <uint32_t>(<uint64_t>r.pages * PAGE_SIZE // m.size)
    words = (r.slabs + 63) // 64
    if words > 1:
        r.bits = <uint64_t*>malloc(words * sizeof(uint64_t))
        if r.bits == NULL:
            pages_give(&heap.pages, run)
            return False
    bits = span_bits(r)
    memset(bits, 0xFF, words * sizeof(uint64_t))
    if r.slabs % 64:
        bits[words - 1] = (<uint64_t>1 << (r.slabs % 64)) - 1
    r.free = r.slabs
    r.hint = 0
    r.state = RUN_SPAN
    r.size_class = <uint8_t>c
    for i in range(r.pages):
        heap.pages.map[r.page + i] = run
    m.slabs += r.slabs
    span_link(heap, m, run)
    return True


cdef void span_drop(Heap* heap, Magazine* m, uint32_t run) noexcept nogil:
    """A wholly free span becomes pages."""
    span_unlink(heap, m, run)
    m.slabs -= heap.pages.runs[run].slabs
    release(heap, run)


cdef void slab_put(Heap* heap, uint32_t c, uint64_t offset) noexcept nogil:
    """Back into its span's bitmap."""
    cdef Pages* p = &heap.pages
    cdef Magazine* m = &heap.magazine[c]
    cdef uint64_t page = offset // PAGE_SIZE
    cdef uint32_t run = p.map[page] if page < p.map_len else 0, delta, i
    cdef Run* r = &p.runs[run]
    cdef uint64_t* bits
    if run == 0 or r.state != RUN_SPAN or r.size_class != c:
        heap.faults += 1
        return
    delta = <uint32_t>(offset - <uint64_t>r.page * PAGE_SIZE)
    i = delta // <uint32_t>m.size
    bits = span_bits(r)
    if i * <uint32_t>m.size != delta or i >= r.slabs or bits[i >> 6] >> (i & 63) & 1:
        heap.faults += 1
        return
    bits[i >> 6] |= <uint64_t>1 << (i & 63)
    r.free += 1
    if (i >> 6) < r.hint:
        r.hint = i >> 6
    if not r.linked:
        span_link(heap, m, run)
    if r.free == r.slabs:
        if m.spare == 0:
            m.spare = run
        else:
            span_drop(heap, m, run)


cdef void spill(Heap* heap, uint32_t c, uint32_t n) noexcept nogil:
    """The `n` oldest slabs of the magazine go back to their spans."""
    cdef Magazine* m = &heap.magazine[c]
    cdef uint32_t i
    for i in range(n):
        slab_put(heap, c, m.slot[i])
    m.len = <uint16_t>(m.len - n)
    memmove(&m.slot[0], &m.slot[n], m.len * sizeof(uint64_t))


cdef uint64_t small_alloc(Heap* heap, uint32_t c) noexcept nogil:
    """The magazine is empty: fill half of it, so that addresses come out ascending."""
    cdef Magazine* m = &heap.magazine[c]
    cdef uint32_t want = m.limit // 2 + 1, i
    cdef uint64_t slot[HEAP_MAGAZINE]
    cdef uint64_t* bits
    cdef uint64_t base
    cdef Run* r
    if m.partial == 0 and not span_new(heap, c):
        return 0
    r = &heap.pages.runs[m.partial]
    if m.spare == m.partial:
        m.spare = 0
    bits = span_bits(r)
    base = <uint64_t>r.page * PAGE_SIZE
    if want > r.free:
        want = r.free
    for i in range(want):
        while bits[r.hint] == 0:             # bounded: r.free of them are marked
            r.hint += 1
        slot[i] = base + (r.hint * 64 + ctz64(bits[r.hint])) * m.size
        bits[r.hint] &= bits[r.hint] - 1
    r.free -= want
    if r.free == 0:
        span_unlink(heap, m, m.partial)
    for i in range(want - 1):
        m.slot[i] = slot[want - 1 - i]
    m.len = <uint16_t>(want - 1)
    heap.used += m.size
    return slot[0]


# --- the heap: slabs ------------------------------------------------------------------------

cdef uint64_t large_alloc(Heap* heap, uint64_t size) noexcept nogil:
    cdef uint32_t run
    if size > heap.arena.capacity:
        return 0
    size = whole_pages(size)
    run = obtain(heap, <uint32_t>(size // PAGE_SIZE))
    if run == 0:
        return 0
    heap.used += size
    return <uint64_t>heap.pages.runs[run].page * PAGE_SIZE


cdef uint64_t heap_alloc_slow(Heap* heap, uint64_t size) noexcept nogil:
    cdef uint64_t offset
    cdef int attempt
    for attempt in range(2):
        if size > SMALL_MAX:
            offset = large_alloc(heap, size)
        else:
            offset = small_alloc(heap, class_of(size))
        if offset or heap.settled or attempt:
            return offset
        heap_settle(heap)
    return 0


cdef void heap_free_slow(Heap* heap, uint64_t offset, uint64_t size) noexcept nogil:
    cdef Pages* p = &heap.pages
    cdef Magazine* m
    cdef uint64_t page = offset // PAGE_SIZE
    cdef uint32_t run
    if offset == 0:
        return
    heap.settled = False
    if size <= SMALL_MAX:
        m = &heap.magazine[class_of(size)]
        spill(heap, class_of(size), (m.limit + 1) // 2)
        m.slot[m.len] = offset
        m.len += 1
        heap.used -= m.size
        return
    run = p.map[page] if page < p.map_len else 0
    size = whole_pages(size)
    if (run == 0 or p.runs[run].state != RUN_LARGE
            or p.runs[run].page * <uint64_t>PAGE_SIZE != offset
            or p.runs[run].pages * <uint64_t>PAGE_SIZE != size):
        heap.faults += 1
        return
    heap.used -= size
    release(heap, run)


cdef void heap_settle(Heap* heap) noexcept nogil:
    cdef uint32_t c
    cdef Magazine* m
    for c in range(HEAP_CLASSES):
        m = &heap.magazine[c]
        if m.len:
            spill(heap, c, m.len)
        if m.spare:
            span_drop(heap, m, m.spare)
            m.spare = 0
    heap.settled = True


cdef void heap_trim(Heap* heap) noexcept nogil:
    heap_settle(heap)
    purge(heap, 1)


# --- for tests and diagnosis ----------------------------------------------------------------

cdef class Memory:
    """An arena with one heap, from Python: what tests and `doctor` look at. Not thread-safe.

    Raises MemoryError when the capacity or the system's memory is exhausted, ValueError for an
    impossible capacity, OSError where this kind of memory is refused.
    """
    cdef Arena arena
    cdef Heap heap

    def __cinit__(self, uint64_t capacity, int kind=ARENA_ANONYMOUS, bytes path=None,
                  uint64_t hash_seed=1, uint64_t actor=1):
        cdef const char* name = NULL
        if path is not None:
            name = path
        cdef int status = arena_create(&self.arena, capacity, kind, name, hash_seed, actor)
        if status == OVER_LIMIT:
            raise ValueError(f"capacity of {capacity} bytes: expected 8 KiB to 16 TiB")
        if status == BAD_OPERATION:
            raise OSError(linux.errno, "this kind of memory is refused here")
        if status != OK or heap_init(&self.heap, &self.arena) != OK:
            raise MemoryError(f"cannot map {capacity} bytes")

    def __dealloc__(self):
        if self.heap.arena != NULL:
            heap_close(&self.heap)
        if self.arena.base != NULL:
            arena_close(&self.arena)

    def alloc(self, uint64_t size) -> int:
        return heap_alloc(&self.heap, size)

    def free(self, uint64_t offset, uint64_t size) -> None:
        heap_free(&self.heap, offset, size)

    def reserve(self, uint64_t size) -> int:
        return heap_reserve(&self.heap, size)

    def settle(self) -> None:
        heap_settle(&self.heap)

    def trim(self) -> None:
        heap_trim(&self.heap)

    def write(self, uint64_t offset, bytes data) -> None:
        check_range(&self.arena, offset, len(data))
        words_in(self.arena.base + offset, <const char*>data, len(data))

    def read(self, uint64_t offset, uint64_t size) -> bytes:
        return read_range(&self.arena, offset, size)

    def reader_fd(self) -> int:
        """A new read-only descriptor of the same memory; the caller closes it."""
        cdef int fd = mapping_reader_fd(&self.arena.map)
        if fd < 0:
            raise OSError(linux.errno, "cannot open the memory for reading")
        return fd

    @staticmethod
    def rounded(uint64_t size) -> int:
        return heap_rounded(size)

    @property
    def used(self) -> int:
        return self.heap.used

    @property
    def capacity(self) -> int:
        return self.arena.capacity

    @property
    def held(self) -> int:
        return self.heap.held

    @property
    def faults(self) -> int:
        return self.heap.faults

    @property
    def kind(self) -> int:
        return self.arena.map.kind

    @property
    def fd(self) -> int:
        return self.arena.map.fd

    @property
    def cursor(self) -> int:
        return load_relaxed(&self.arena.header.cursor)

    @property
    def reserved(self) -> int:
        return load_relaxed(&self.arena.header.reserved)

    @property
    def free_pages(self) -> int:
        return self.heap.pages.free_pages

    @property
    def boot_id(self) -> bytes:
        return (<const char*>self.arena.header.boot_id)[:16]


cdef class Attached:
    """Another process's (or one's own) arena, mapped read-only. ValueError: it is not an arena."""
    cdef Arena arena

    def __cinit__(self, int fd):
        cdef int status = arena_attach(&self.arena, fd)
        if status == CORRUPT:
            raise ValueError("not an arena of this layout")
        if status != OK:
            raise MemoryError("cannot map the arena")

    def __dealloc__(self):
        if self.arena.base != NULL:
            arena_close(&self.arena)

    def read(self, uint64_t offset, uint64_t size) -> bytes:
        return read_range(&self.arena, offset, size)

    @property
    def address(self) -> int:
        return <uint64_t>self.arena.base

    @property
    def capacity(self) -> int:
        return self.arena.capacity


cdef int check_range(Arena* arena, uint64_t offset, uint64_t size) except -1:
    if offset % 8 or offset > arena.capacity or size > arena.capacity - offset:
        raise ValueError(f"{size} bytes at {offset}: outside an arena of {arena.capacity} bytes")
    return 0


cdef bytes read_range(Arena* arena, uint64_t offset, uint64_t size):
    check_range(arena, offset, size)
    cdef bytes out = b"\0" * size
    words_out(<char*>out, arena.base + offset, size)
    return out
