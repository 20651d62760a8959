# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Native loops for the race tests: C threads over a shard, two ends of a mail ring, a heap.

Owns    nothing between calls. Built on demand by tests/race/building.py, never shipped.
Threads stress_shard starts its own (pthreads that never hold the GIL); the ring's ends run in the
        calling thread, in one process each.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from annapy._core.arena cimport (
    ARENA_ANONYMOUS, Arena, Heap, arena_attach, arena_close, arena_create, arena_reserve,
    heap_alloc, heap_close, heap_free, heap_init)
from annapy._core.atomics cimport fetch_add, load_relaxed, store_relaxed, store_seq, words_out
from annapy._core.cell cimport TAG_LWW, TAG_PNCOUNTER
from annapy._core.codec cimport BUSY, CORRUPT, MISSING, OK, Buf, buf_free, buf_init, span
from annapy._core.hashing cimport hash64
from annapy._core.hlc cimport clock_ms, clock_stamp
from annapy._core.mapping cimport Mapping, mapping_attach, mapping_close
from annapy._core.registry cimport OP_ADD, OP_SET
from annapy._core.ring cimport (
    Bell, Inbox, Mail, MailHeader, Outbox, Place as MailPlace, Reply, bell_awake, bell_sleep,
    inbox_applied, inbox_close, inbox_durable, inbox_next, inbox_open, inbox_pending, inbox_place,
    inbox_ticket, mail_create, outbox_close, outbox_may_overlay, outbox_open, outbox_post,
    reply_size)
from annapy._core.shard cimport (
    REQ_DELETE, TTL_KEEP, Hazards, Request, Shard, shard_apply, shard_close, shard_init,
    shard_submit)
from annapy._core.table cimport (
    COPIED_MAX, REC_TOMBSTONE, Found, Root, ShardHeader, table_find, table_still)
from bindings cimport linux

import annapy._core.joins_scalar  # registers what the shard joins

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t*, void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)

cdef extern from "time.h" nogil:
    enum:
        CLOCK_PROCESS_CPUTIME_ID

cdef enum:
    KEY_LEN = 12
    VALUE_WORDS_MAX = 1024
    HEADER_AND_STAMP = 28


cdef uint64_t now_ns(int clock) noexcept nogil:
    cdef linux.timespec_t t
    linux.clock_gettime(clock, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef inline uint64_t next_random(uint64_t* state) noexcept nogil:
    """xorshift64* (Vigna 2014)."""
    state[0] ^= state[0] >> 12
    state[0] ^= state[0] << 25
    state[0] ^= state[0] >> 27
    return state[0] * <uint64_t>2685821657736338717


# --- a shard: writers, readers, growth, eviction --------------------------------------------

cdef struct World:
    Arena arena
    Root* root
    Shard shard
    Hazards hazards
    uint64_t clock
    uint64_t keys
    uint64_t stop
    uint64_t torn            # values that were not what somebody wrote
    uint64_t reads
    uint64_t hits
    uint64_t stuck           # table_find gave up
    uint64_t writes
    uint64_t refused
    uint64_t added           # on the one counter


cdef struct Worker:
    World* world
    uint64_t seed
    uint64_t index
    pthread_t thread


cdef void make_key(uint64_t number, uint8_t* key) noexcept nogil:
    cdef uint64_t spread = number * <uint64_t>0x9E3779B97F4A7C15
    memcpy(key, &spread, 8)
    memcpy(key + 8, &number, 4)


cdef void make_value(uint64_t seed, uint64_t words, uint64_t* value) noexcept nogil:
    cdef uint64_t i
    for i in range(words):
        value[i] = (seed + i) * <uint64_t>0x9E3779B97F4A7C15 ^ words


cdef bint is_value(const uint64_t* value, uint64_t bytes) noexcept nogil:
    """Whether one make_value wrote all of it."""
    cdef uint64_t words = bytes // 8, i
    cdef uint64_t first
    if bytes % 8 or words == 0:
        return False
    first = value[0] ^ words
    for i in range(words):
        if value[i] ^ words != first + i * <uint64_t>0x9E3779B97F4A7C15:
            return False
    return True


cdef void prepare(World* w, Request* r, const uint8_t* key) noexcept nogil:
    memset(r, 0, sizeof(Request))
    r.key = key
    r.key_len = KEY_LEN
    r.namespace = 1
    r.hash = hash64(key, KEY_LEN, w.arena.header.hash_seed)
    r.ttl_ms = TTL_KEEP
    r.now_ms = clock_ms()
    r.op.stamp.hlc = clock_stamp(&w.clock)
    r.op.stamp.actor = 1


cdef void* writer(void* argument) noexcept nogil:
    cdef Worker* me = <Worker*>argument
    cdef World* w = me.world
    cdef uint64_t rng = me.seed, words, what, one = 1
    cdef uint64_t value[VALUE_WORDS_MAX]
    cdef uint8_t key[KEY_LEN]
    cdef Request r
    while not load_relaxed(&w.stop):
        what = next_random(&rng)
        make_key(1 + (what >> 20) % w.keys, key)
        prepare(w, &r, key)
        if what % 64 == 0:
            r.flags = REQ_DELETE
            r.op.tag = TAG_LWW
        elif what % 64 == 1:
            make_key(0, key)
            prepare(w, &r, key)
            r.op.code = OP_ADD
            r.op.tag = TAG_PNCOUNTER
            r.op.arg = span(&one, 8)
        else:
            words = 1 + (what >> 8) % 40
            if what % 64 == 2:
                words = 600 + (what >> 8) % 400
            make_value(what, words, value)
            r.op.code = OP_SET
            r.op.tag = TAG_LWW
            r.op.arg = span(value, words * 8)
        shard_submit(&w.shard, &r)
        if r.status != OK:
            fetch_add(&w.refused, 1)
        elif r.op.tag == TAG_PNCOUNTER:
            fetch_add(&w.added, 1)
        fetch_add(&w.writes, 1)
    return NULL


cdef bint copy_cell(World* w, Worker* me, Found* found, uint8_t* out) noexcept nogil:
    """As a reader does: small under validation, large under a hazard."""
    cdef uint64_t* slot = &w.hazards.slot[me.index]
    cdef bint whole
    if found.cell_len <= COPIED_MAX:
        words_out(out, found.cell, found.cell_len)
        return table_still(&w.shard.table.view, found)
    store_seq(slot, <uint64_t>(<uint8_t*>found.record - w.arena.base))
    whole = table_still(&w.shard.table.view, found)
    if whole:
        memcpy(out, found.cell, found.cell_len)
    store_seq(slot, 0)
    return whole


cdef void* reader(void* argument) noexcept nogil:
    cdef Worker* me = <Worker*>argument
    cdef World* w = me.world
    cdef uint64_t rng = me.seed, reads = 0, hits = 0
    cdef uint64_t buffer[VALUE_WORDS_MAX + 16]
    cdef uint8_t* out = <uint8_t*>buffer + 4        # so that the value behind 28 bytes is aligned
    cdef uint8_t key[KEY_LEN]
    cdef Found found
    cdef int status
    while not load_relaxed(&w.stop):
        make_key(1 + (next_random(&rng) >> 20) % w.keys, key)
        status = table_find(&w.shard.table.view, key, KEY_LEN, 1,
                            hash64(key, KEY_LEN, w.arena.header.hash_seed), &found)
        reads += 1
        if status == BUSY:
            fetch_add(&w.stuck, 1)
        if status != OK or found.flags & REC_TOMBSTONE or found.cell_len > VALUE_WORDS_MAX * 8:
            continue
        if not copy_cell(w, me, &found, out):
            continue
        hits += 1
        if not is_value(<uint64_t*>(out + HEADER_AND_STAMP), found.cell_len - HEADER_AND_STAMP):
            fetch_add(&w.torn, 1)
    fetch_add(&w.reads, reads)
    fetch_add(&w.hits, hits)
    return NULL


cdef int world_open(World* w, uint64_t capacity, uint64_t keys, bint evicts) noexcept nogil:
    cdef uint64_t at
    memset(w, 0, sizeof(World))
    if arena_create(&w.arena, capacity, ARENA_ANONYMOUS, NULL, 12345, 1) != OK:
        return -1
    at = arena_reserve(&w.arena, sizeof(Root) + sizeof(ShardHeader))
    w.hazards.slot = <uint64_t*>calloc(64, 8)
    if at == 0 or w.hazards.slot == NULL:
        return -1
    w.hazards.slots = 64
    w.hazards.high = 64
    w.root = <Root*>(w.arena.base + at)
    w.root.shards = 1
    w.keys = keys
    if shard_init(&w.shard, &w.arena, w.root, 0, &w.hazards, &w.clock, 1,
                  capacity * 15 // 16) != OK:
        return -1
    w.shard.evicts = evicts
    return 0


def stress_shard(double seconds, int writers, int readers, uint64_t capacity, uint64_t keys,
                 bint evicts) -> dict[str, int]:
    """C threads over one shard. `torn`, `stuck` must be 0; without eviction the counter exact."""
    cdef World* w = <World*>malloc(sizeof(World))
    cdef Worker worker[64]
    cdef int i, n = writers + readers
    cdef uint8_t key[KEY_LEN]
    cdef Request r
    cdef Buf cell
    cdef int64_t pause = <int64_t>(seconds * 1e9)
    cdef linux.pollfd_t nothing
    if n > 64 or world_open(w, capacity, keys, evicts) < 0:
        raise MemoryError
    with nogil:
        for i in range(n):
            worker[i].world = w
            worker[i].seed = <uint64_t>0x139408DCBBF7A44 + <uint64_t>i * 977
            worker[i].index = i
            pthread_create(&worker[i].thread, NULL, writer if i < writers else reader, &worker[i])
        linux.poll(&nothing, 0, <int>(pause // 1000000))
        store_relaxed(&w.stop, 1)
        for i in range(n):
            pthread_join(worker[i].thread, NULL)
    buf_init(&cell)
    counted = counter_value(w, &cell)
    buf_free(&cell)
    result = {
        "torn": w.torn, "stuck": w.stuck, "reads": w.reads, "hits": w.hits, "writes": w.writes,
        "refused": w.refused, "added": w.added, "counted": counted, "evicted": w.shard.evicted,
        "segments": w.shard.table.segments, "faults": w.shard.heap.faults,
        "used": w.shard.heap.used, "held": w.shard.heap.held,
    }
    shard_close(&w.shard)
    free(w.hazards.slot)
    arena_close(&w.arena)
    free(w)
    return result


cdef int64_t counter_value(World* w, Buf* cell):
    cdef uint8_t key[KEY_LEN]
    cdef uint64_t plus = 0
    cdef Found found
    make_key(0, key)
    if table_find(&w.shard.table.view, key, KEY_LEN, 1,
                  hash64(key, KEY_LEN, w.arena.header.hash_seed), &found) != OK:
        return -1
    # header, then (actor, plus, minus)
    memcpy(&plus, found.cell + 16, 8)
    return <int64_t>plus


# --- several heaps in one arena -------------------------------------------------------------

cdef enum:
    SLABS = 400

cdef struct Farmer:
    Arena* arena
    uint64_t seed
    uint64_t rounds
    uint64_t trampled        # slabs that somebody else wrote into
    uint64_t empty           # allocations that found no room
    uint64_t faults
    uint64_t held
    pthread_t thread


cdef void* farm(void* argument) noexcept nogil:
    """One heap: slabs filled with their own mark, looked at again before they are freed."""
    cdef Farmer* me = <Farmer*>argument
    cdef Heap heap
    cdef uint64_t offset[SLABS]
    cdef uint64_t size[SLABS]
    cdef uint64_t rng = me.seed, i, k, r
    cdef uint64_t* word
    heap_init(&heap, me.arena)
    memset(offset, 0, sizeof(offset))
    for r in range(me.rounds):
        k = next_random(&rng) % SLABS
        word = <uint64_t*>(me.arena.base + offset[k])
        if offset[k]:
            for i in range(size[k] // 8):
                if word[i] != me.seed + offset[k]:
                    me.trampled += 1
                    break
            heap_free(&heap, offset[k], size[k])
        size[k] = 8 << next_random(&rng) % (9 if r % 16 else 15)
        offset[k] = heap_alloc(&heap, size[k])
        if offset[k] == 0:
            me.empty += 1
            continue
        word = <uint64_t*>(me.arena.base + offset[k])
        for i in range(size[k] // 8):
            word[i] = me.seed + offset[k]
        if r % 1000 == 0:
            arena_reserve(me.arena, 4096)
    me.faults = heap.faults
    me.held = heap.held
    heap_close(&heap)
    return NULL


def stress_heaps(int threads, uint64_t rounds, uint64_t capacity) -> dict[str, int]:
    """Heaps of several threads share an arena: no slab may be handed out twice."""
    cdef Arena arena
    cdef Farmer farmer[16]
    cdef int i
    if threads > 16 or arena_create(&arena, capacity, ARENA_ANONYMOUS, NULL, 1, 1) != OK:
        raise MemoryError
    memset(farmer, 0, sizeof(farmer))
    with nogil:
        for i in range(threads):
            farmer[i].arena = &arena
            farmer[i].seed = <uint64_t>0x9E3779B97F4A7C15 * <uint64_t>(i + 1)
            farmer[i].rounds = rounds
            pthread_create(&farmer[i].thread, NULL, farm, &farmer[i])
        for i in range(threads):
            pthread_join(farmer[i].thread, NULL)
    result = {
        "trampled": sum([farmer[i].trampled for i in range(threads)]),
        "empty": sum([farmer[i].empty for i in range(threads)]),
        "faults": sum([farmer[i].faults for i in range(threads)]),
        "held": sum([farmer[i].held for i in range(threads)]),
        "cursor": arena.header.cursor,
    }
    arena_close(&arena)
    return result


# --- the two ends of a ring -----------------------------------------------------------------

def produce(int mail_fd, int owner_fd, uint64_t reply_at, uint64_t bell_at, int bell_fd,
            uint64_t count, uint64_t seed) -> int:
    """Posts `count` operations (0: for ever) whose argument is their number; how many went out."""
    cdef Mapping file
    cdef Arena owner
    cdef Outbox box
    cdef Mail mail
    cdef uint64_t n = 0, rng = seed | 1, size, i
    cdef uint64_t arg[64]
    cdef uint8_t key[KEY_LEN]
    cdef int status = OK
    if mapping_attach(&file, mail_fd, True) != OK or arena_attach(&owner, owner_fd) != OK:
        raise OSError("cannot attach")
    outbox_open(&box, &file, 0, <Reply*>(owner.base + reply_at), <Bell*>(owner.base + bell_at),
                bell_fd)
    memset(&mail, 0, sizeof(Mail))
    mail.record.code = OP_ADD
    mail.record.tag = TAG_PNCOUNTER
    mail.record.namespace = 1
    with nogil:
        while status == OK and (count == 0 or n < count):
            size = 1 + next_random(&rng) % 12
            for i in range(size):
                arg[i] = n
            make_key(next_random(&rng) % 1000, key)
            mail.key = span(key, KEY_LEN)
            mail.arg = span(arg, size * 8)
            status = outbox_post(&box, &mail, n, 20_000_000_000)
            if status == OK:
                n += 1
    outbox_close(&box)
    mapping_close(&file)
    arena_close(&owner)
    return n


cdef struct Drain:
    Inbox box
    uint64_t taken
    uint64_t wrong


cdef int drain(Drain* d) noexcept nogil:
    """Everything that is there, in order, each record as its number says; then the books."""
    cdef Mail mail
    cdef uint64_t i, word
    cdef int status = inbox_next(&d.box, &mail)
    while status == OK:
        if mail.record.sequence != d.taken + 1 or mail.arg.len % 8 or mail.key.len != KEY_LEN:
            d.wrong += 1
        for i in range(mail.arg.len // 8):
            memcpy(&word, mail.arg.ptr + 8 * i, 8)
            if word != d.taken:
                d.wrong += 1
        inbox_ticket(&d.box, mail.record.sequence, d.taken + 1)
        d.taken += 1
        status = inbox_next(&d.box, &mail)
    inbox_applied(&d.box)
    inbox_durable(&d.box, inbox_place(&d.box))
    return status


cdef class Consumer:
    """The owner's end: an arena for the reply, and a loop that drains and sleeps."""
    cdef Mapping file
    cdef Arena arena
    cdef Drain state
    cdef Bell* bell
    cdef readonly uint64_t reply_at
    cdef readonly uint64_t bell_at
    cdef readonly int bell_fd

    def __cinit__(self, int mail_fd, int bell_fd):
        cdef MailPlace start
        cdef MailHeader h
        start.position = start.sequence = 0
        self.file.fd = self.arena.map.fd = -1
        self.bell_fd = bell_fd
        if mapping_attach(&self.file, mail_fd, False) != OK:
            raise OSError("cannot attach")
        words_out(&h, self.file.base, sizeof(MailHeader))
        if arena_create(&self.arena, 1 << 26, 1, NULL, 1, 1) != OK:
            raise MemoryError
        self.bell_at = arena_reserve(&self.arena, 4096)
        self.reply_at = arena_reserve(&self.arena, reply_size(h.ring_bytes))
        self.bell = <Bell*>(self.arena.base + self.bell_at)
        if inbox_open(&self.state.box, &self.file, 0, <Reply*>(self.arena.base + self.reply_at),
                      start) != OK:
            raise ValueError("damaged")

    def __dealloc__(self):
        inbox_close(&self.state.box)
        if self.file.base != NULL:
            mapping_close(&self.file)
        if self.arena.base != NULL:
            arena_close(&self.arena)

    @property
    def fd(self) -> int:
        return self.arena.map.fd

    def run(self, uint64_t until, double quiet) -> tuple[int, int, bool]:
        """Drains until that many are in, the ring is damaged, or nothing came for `quiet` seconds:
        (taken, wrong, damaged)."""
        cdef linux.pollfd_t p
        cdef int status = MISSING, rang
        p.fd = self.bell_fd
        p.events = linux.POLLIN
        with nogil:
            while self.state.taken < until:
                status = drain(&self.state)
                if status == CORRUPT or self.state.taken >= until:
                    break
                bell_sleep(self.bell)
                rang = 1
                if not inbox_pending(&self.state.box):
                    rang = linux.poll(&p, 1, <int>(quiet * 1000))
                bell_awake(self.bell, self.bell_fd)
                if rang == 0:
                    break
        return self.state.taken, self.state.wrong, status == CORRUPT


# --- what things cost -----------------------------------------------------------------------

def bench_heap(uint64_t size, uint64_t live, uint64_t rounds) -> float:
    """CPU nanoseconds of a free and an alloc of `size` bytes, a random one of `live` replaced."""
    cdef Arena arena
    cdef Heap heap
    cdef uint64_t* slab = <uint64_t*>calloc(live, 8)
    cdef uint64_t i, k, rng = 42, begin
    if arena_create(&arena, live * (size + 64) * 2 + (1 << 24), 0, NULL, 1, 1) != OK:
        raise MemoryError
    heap_init(&heap, &arena)
    with nogil:
        for i in range(live):
            slab[i] = heap_alloc(&heap, size)
        begin = now_ns(CLOCK_PROCESS_CPUTIME_ID)
        for i in range(rounds):
            k = next_random(&rng) % live
            heap_free(&heap, slab[k], size)
            slab[k] = heap_alloc(&heap, size)
        begin = now_ns(CLOCK_PROCESS_CPUTIME_ID) - begin
    heap_close(&heap)
    arena_close(&arena)
    free(slab)
    return begin / <double>rounds


def bench_heap_bulk(uint64_t size, uint64_t live, uint64_t rounds) -> float:
    """CPU nanoseconds of one alloc and one free, `live` allocated and then freed, over and over."""
    cdef Arena arena
    cdef Heap heap
    cdef uint64_t* slab = <uint64_t*>calloc(live, 8)
    cdef uint64_t i, r, begin
    if arena_create(&arena, live * (size + 64) * 2 + (1 << 24), 0, NULL, 1, 1) != OK:
        raise MemoryError
    heap_init(&heap, &arena)
    with nogil:
        begin = now_ns(CLOCK_PROCESS_CPUTIME_ID)
        for r in range(rounds):
            for i in range(live):
                slab[i] = heap_alloc(&heap, size)
            for i in range(live):
                heap_free(&heap, slab[i], size)
        begin = now_ns(CLOCK_PROCESS_CPUTIME_ID) - begin
    heap_close(&heap)
    arena_close(&arena)
    free(slab)
    return begin / <double>(rounds * live)


def bench_ring(uint64_t rounds, uint64_t batch) -> tuple[float, float]:
    """CPU nanoseconds of posting, and of taking, one addition of 8 bytes, `batch` at a time."""
    cdef Mapping file
    cdef Arena arena
    cdef Outbox out
    cdef Inbox box
    cdef Mail mail, got
    cdef MailPlace start
    cdef Bell* bell
    cdef uint64_t r, i, at, t, posting = 0, taking = 0, one = 1
    cdef uint8_t key[KEY_LEN]
    start.position = start.sequence = 0
    if mail_create(&file, 1, 1 << 20, 0, 1, 1) != OK:
        raise MemoryError
    if arena_create(&arena, 1 << 24, 0, NULL, 1, 1) != OK:
        raise MemoryError
    bell = <Bell*>(arena.base + arena_reserve(&arena, 4096))
    at = arena_reserve(&arena, reply_size(1 << 20))
    inbox_open(&box, &file, 0, <Reply*>(arena.base + at), start)
    outbox_open(&out, &file, 0, <Reply*>(arena.base + at), bell, -1)
    memset(&mail, 0, sizeof(Mail))
    mail.record.code = OP_ADD
    mail.arg = span(&one, 8)
    mail.key = span(key, KEY_LEN)
    with nogil:
        for r in range(rounds):
            t = now_ns(CLOCK_PROCESS_CPUTIME_ID)
            for i in range(batch):
                make_key(i, key)
                outbox_post(&out, &mail, i, 0)
            posting += now_ns(CLOCK_PROCESS_CPUTIME_ID) - t
            t = now_ns(CLOCK_PROCESS_CPUTIME_ID)
            while inbox_next(&box, &got) == OK:
                inbox_ticket(&box, got.record.sequence, got.record.sequence)
            inbox_applied(&box)
            inbox_durable(&box, inbox_place(&box))
            taking += now_ns(CLOCK_PROCESS_CPUTIME_ID) - t
    outbox_close(&out)
    inbox_close(&box)
    mapping_close(&file)
    arena_close(&arena)
    return posting / <double>(rounds * batch), taking / <double>(rounds * batch)
