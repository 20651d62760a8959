"""The broadcast ring's code; events.pxd has the contract."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from annapy._core.atomics cimport (
    cas64, cpu_pause, fence_acquire, fence_release, load_acquire, load_relaxed, store_relaxed,
    store_release, words_in, words_out,
)
from annapy._core.codec cimport (
    NO_MEMORY, OK, Buf, buf_clear, buf_reserve, load_u32, store_u16, store_u32, store_u64,
)

cdef enum:
    RECORD_HEAD = 24             # position, size, kind, cause, key_len, namespace
    KEY_MAX = 4096


cdef int events_init(EventRing* ring, uint64_t size) noexcept nogil:
    memset(ring, 0, sizeof(EventRing))
    ring.data = <uint8_t*>calloc(1, size)
    if ring.data == NULL:
        return NO_MEMORY
    ring.size = size
    return OK


cdef void events_close(EventRing* ring) noexcept nogil:
    free(ring.data)
    memset(ring, 0, sizeof(EventRing))


cdef void _write(EventRing* ring, uint64_t at, const uint8_t* p, uint64_t n) noexcept nogil:
    cdef uint64_t to = at & (ring.size - 1)
    cdef uint64_t first = ring.size - to if n > ring.size - to else n
    words_in(ring.data + to, p, first)
    if n > first:
        words_in(ring.data, p + first, n - first)


cdef void _read(EventRing* ring, uint64_t at, uint8_t* p, uint64_t n) noexcept nogil:
    cdef uint64_t start = at & (ring.size - 1)
    cdef uint64_t first = ring.size - start if n > ring.size - start else n
    words_out(p, ring.data + start, first)
    if n > first:
        words_out(p + first, ring.data, n - first)


cdef void events_post(EventRing* ring, uint8_t kind, uint8_t cause, uint32_t namespace,
                      const uint8_t* key, size_t key_len) noexcept nogil:
    cdef uint8_t record[RECORD_HEAD + KEY_MAX + 8]
    cdef uint32_t size
    cdef uint64_t head, tail
    cdef uint8_t head_of_oldest[16]
    if key_len > KEY_MAX:
        return
    size = <uint32_t>((RECORD_HEAD + key_len + 7) & ~<size_t>7)
    memset(record, 0, RECORD_HEAD)
    store_u32(&record[8], size)
    record[12] = kind
    record[13] = cause
    store_u16(&record[14], <uint16_t>key_len)
    store_u32(&record[16], namespace)
    memcpy(&record[RECORD_HEAD], key, key_len)
    while not cas64(&ring.lock, 0, 1):
        cpu_pause()
    head = ring.head
    tail = ring.tail
    while head + size - tail > ring.size:
        _read(ring, tail, head_of_oldest, 16)
        tail += load_u32(&head_of_oldest[8])
    store_relaxed(&ring.tail, tail)
    fence_release()
    store_u64(&record[0], head)
    _write(ring, head, record, size)
    store_release(&ring.head, head + size)
    store_release(&ring.lock, 0)


cdef bint events_take(EventRing* ring, uint64_t* cursor, Buf* out, bint* gap) noexcept nogil:
    cdef uint8_t head[RECORD_HEAD]
    cdef uint64_t position
    cdef uint32_t size
    cdef uint8_t* to
    while True:
        position = cursor[0]
        if position >= load_acquire(&ring.head):
            return False
        _read(ring, position, head, RECORD_HEAD)
        size = load_u32(&head[8])
        buf_clear(out)
        to = buf_reserve(out, size) if size <= RECORD_HEAD + KEY_MAX + 8 else NULL
        if to != NULL:
            _read(ring, position, to, size)
            out.len = size
        fence_acquire()
        if load_relaxed(&ring.tail) > position:
            gap[0] = True
            cursor[0] = load_acquire(&ring.tail)
            continue
        if to == NULL:
            return False
        cursor[0] = position + size
        return True
