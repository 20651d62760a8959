"""The mail ring; ring.pxd has the contract and the layouts."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from annapy._core.arena cimport (
    ARENA_MEMFD, Arena, arena_attach, arena_close, arena_create, arena_reserve)
from annapy._core.atomics cimport (
    cpu_pause, fence_acquire, fence_release, fence_seq, load32_acquire, load_acquire, load_relaxed,
    store32_release, store_relaxed, store_release, store_seq, words_in, words_out)
from annapy._core.codec cimport (
    BAD_OPERATION, BUSY, CORRUPT, MISSING, NO_MEMORY, OK, OVER_LIMIT, buf_clear, buf_free, buf_init,
    buf_reserve, span, span_of_bytes, unlikely)
from annapy._core.hashing cimport hash64
from annapy._core.mapping cimport (
    MAPPING_MEMFD, mapping_attach, mapping_close, mapping_commit, mapping_create,
    mapping_reader_fd, mapping_seals)
from bindings cimport linux

__all__ = ["MailClient", "MailOwner"]

cdef uint64_t MAGIC = 0x314C49414D4E4E41     # "ANNMAIL1"
cdef enum:
    SPINS = 200                  # looks at `free` before the client sleeps
    WAIT_STEP_NS = 50_000_000    # it looks again at least this often: an owner may have died
    SEALS = linux.F_SEAL_SHRINK | linux.F_SEAL_GROW | linux.F_SEAL_SEAL

assert sizeof(Record) == RECORD_HEADER_SIZE
assert sizeof(MailHeader) == 72
assert sizeof(Reply) == 64
assert sizeof(Ticket) == 16


cdef inline uint64_t eights(uint64_t n) noexcept nogil:
    return (n + 7) & ~<uint64_t>7


cdef inline Ticket* ticket_slot(const Reply* reply, uint64_t size,
                                uint64_t sequence) noexcept nogil:
    return <Ticket*>(<uint8_t*>reply + sizeof(Reply)) + (sequence & (size // 64 - 1))


cdef int64_t now_ns() noexcept nogil:
    cdef linux.timespec_t t
    linux.clock_gettime(linux.CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1_000_000_000 + t.tv_nsec


# --- the client's file ----------------------------------------------------------------------

cdef bint sizes_fit(uint64_t rings, uint64_t ring_bytes) noexcept nogil:
    return (1 <= rings <= RINGS_MAX and RING_BYTES_MIN <= ring_bytes <= RING_BYTES_MAX
            and ring_bytes & (ring_bytes - 1) == 0)


cdef int mail_create(Mapping* m, uint32_t rings, uint64_t ring_bytes, uint64_t extra_bytes,
                     uint64_t actor, uint64_t incarnation) noexcept nogil:
    cdef uint64_t stride = RING_HEAD_SIZE + ring_bytes, extra_at
    cdef MailHeader* h
    cdef int status
    if not sizes_fit(rings, ring_bytes) or extra_bytes > RING_BYTES_MAX:
        return OVER_LIMIT
    extra_at = (MAIL_HEADER_SIZE + rings * stride + 4095) & ~<uint64_t>4095
    status = mapping_create(m, extra_at + extra_bytes, MAPPING_MEMFD, "annapy-mail", 0o600)
    if status != OK:
        return status
    if linux.fcntl(m.fd, linux.F_ADD_SEALS, <int>SEALS):
        mapping_close(m)
        return BAD_OPERATION
    if mapping_commit(m, 0, m.size) != OK:
        mapping_close(m)
        return NO_MEMORY
    h = <MailHeader*>m.base
    h.layout = MAIL_LAYOUT
    h.rings = rings
    h.size = m.size
    h.ring_bytes = ring_bytes
    h.stride = stride
    h.actor = actor
    h.incarnation = incarnation
    h.extra_at = extra_at
    h.extra_bytes = m.size - extra_at
    store_release(&h.magic, MAGIC)
    return OK


cdef int mail_check(const Mapping* m, int fd) noexcept nogil:
    cdef MailHeader h
    cdef int seals = mapping_seals(fd)
    if seals < 0 or seals & SEALS != SEALS or m.size < MAIL_HEADER_SIZE:
        return CORRUPT
    words_out(&h, m.base, sizeof(MailHeader))
    if h.magic != MAGIC or h.layout != MAIL_LAYOUT or h.size != m.size:
        return CORRUPT
    if not sizes_fit(h.rings, h.ring_bytes) or h.stride != RING_HEAD_SIZE + h.ring_bytes:
        return CORRUPT
    if MAIL_HEADER_SIZE + h.rings * h.stride > h.extra_at or h.extra_at > h.size:
        return CORRUPT
    if h.extra_bytes != h.size - h.extra_at or h.extra_at % 4096:
        return CORRUPT
    return OK


cdef int ring_at(const Mapping* m, uint32_t ring, uint8_t** out,
                 uint64_t* ring_bytes) noexcept nogil:
    """Where a ring begins; the sizes are read once and bounded by the file's, whatever they say."""
    cdef MailHeader h
    cdef uint64_t at
    words_out(&h, m.base, sizeof(MailHeader))
    if not sizes_fit(h.rings, h.ring_bytes) or ring >= h.rings:
        return CORRUPT
    at = MAIL_HEADER_SIZE + ring * (RING_HEAD_SIZE + h.ring_bytes)
    if at + RING_HEAD_SIZE + h.ring_bytes > m.size:
        return CORRUPT
    out[0] = m.base + at
    ring_bytes[0] = h.ring_bytes
    return OK


# --- the client's end -----------------------------------------------------------------------

cdef int outbox_open(Outbox* o, Mapping* m, uint32_t ring, const Reply* reply, const Bell* bell,
                     int bell_fd) noexcept nogil:
    cdef uint8_t* base = NULL
    memset(o, 0, sizeof(Outbox))
    buf_init(&o.scratch)
    if ring_at(m, ring, &base, &o.size) != OK:
        return CORRUPT
    o.ring = <RingHead*>base
    o.data = base + RING_HEAD_SIZE
    outbox_attach(o, reply, bell, bell_fd)
    return OK


cdef void outbox_attach(Outbox* o, const Reply* reply, const Bell* bell,
                        int bell_fd) noexcept nogil:
    o.reply = reply
    o.bell = bell
    o.bell_fd = bell_fd


cdef void outbox_close(Outbox* o) noexcept nogil:
    buf_free(&o.scratch)
    memset(o, 0, sizeof(Outbox))


cdef inline void first_word(const uint8_t* p, uint32_t* total, uint8_t* code) noexcept nogil:
    """A filler may be as short as eight bytes, so nothing more is read before its code is known."""
    cdef uint64_t first
    words_out(&first, p, 8)
    total[0] = <uint32_t>first
    code[0] = <uint8_t>(first >> 32)


cdef int outbox_place(Outbox* o, uint64_t sequence, Place* out) noexcept nogil:
    cdef uint64_t at = o.free, found = o.sequence + 1
    cdef uint32_t total
    cdef uint8_t code
    while at < o.head:
        first_word(o.data + (at & (o.size - 1)), &total, &code)
        if total < 8:
            return CORRUPT
        if code != CODE_FILLER:
            words_out(&found, o.data + (at & (o.size - 1)) + 8, 8)
            if found > sequence:
                break
            found = o.sequence + 1
        at += total
    out.sequence = sequence
    out.position = at
    return OK if found == sequence + 1 else MISSING


cdef void take_note_of_free(Outbox* o) noexcept nogil:
    """`free` as the owner says, if that is possible at all."""
    cdef uint64_t durable = load_acquire(&o.reply.free)
    if o.free < durable <= o.head:
        o.free = durable


cdef void ring_the_bell(Outbox* o) noexcept nogil:
    """The record is published; the owner, before it slept, said so and then looked once more. One
    of the two sees the other."""
    cdef uint64_t one = 1
    fence_seq()
    if unlikely(load_relaxed(&o.bell.asleep) != 0):
        linux.write(o.bell_fd, &one, sizeof(one))


cdef int wait_for_room(Outbox* o, uint64_t need, int64_t timeout_ns) noexcept nogil:
    cdef int64_t end, left
    cdef uint32_t wake
    cdef int i
    for i in range(SPINS):
        take_note_of_free(o)
        if o.head + need - o.free <= o.size:
            return OK
        cpu_pause()
    end = now_ns() + timeout_ns
    while True:
        wake = load32_acquire(&o.reply.wake)
        store_seq(&o.ring.waiting, 1)
        fence_seq()
        take_note_of_free(o)
        left = end - now_ns()
        if o.head + need - o.free <= o.size or left <= 0:
            store_relaxed(&o.ring.waiting, 0)
            return OK if left > 0 or o.head + need - o.free <= o.size else BUSY
        ring_the_bell(o)
        linux.futex_wait(<uint32_t*>&o.reply.wake, wake,
                         left if left < WAIT_STEP_NS else WAIT_STEP_NS)


cdef inline uint8_t* put(uint8_t* p, Span s) noexcept nogil:
    if s.len:
        memcpy(p, s.ptr, s.len)
    return p + s.len


cdef int outbox_post(Outbox* o, Mail* mail, uint64_t key_hash, int64_t timeout_ns) noexcept nogil:
    cdef Record* r = &mail.record
    cdef uint64_t n = RECORD_HEADER_SIZE + mail.key.len + mail.arg.len + mail.extra.len
    cdef uint64_t total = eights(n), at = o.head & (o.size - 1), rest = o.size - at, need
    cdef uint64_t filler
    cdef uint8_t* p
    if mail.key.len > 0xFFFF or mail.extra.len > 0xFFFF or total > o.size // 4:
        return OVER_LIMIT
    need = total if total <= rest else total + rest
    if o.head + need - o.free > o.size and wait_for_room(o, need, timeout_ns) != OK:
        return BUSY
    buf_clear(&o.scratch)
    p = buf_reserve(&o.scratch, total)
    if p == NULL:
        return NO_MEMORY
    fence_release()              # what is overwritten now was free before: see outbox_overlay
    if total > rest:
        filler = rest | <uint64_t>CODE_FILLER << 32
        store_relaxed(<uint64_t*>(o.data + at), filler)
        o.head += rest
        at = 0
    o.sequence += 1
    r.total = <uint32_t>total
    r.sequence = o.sequence
    r.key_len = <uint16_t>mail.key.len
    r.extra_len = <uint16_t>mail.extra.len
    r.arg_len = <uint32_t>mail.arg.len
    memcpy(p, r, RECORD_HEADER_SIZE)
    p += RECORD_HEADER_SIZE
    p = put(put(put(p, mail.key), mail.arg), mail.extra)
    memset(p, 0, total - n)
    p = o.scratch.ptr
    words_in(o.data + at, p, total)
    store_relaxed(&o.recent[key_hash & (RECENT - 1)], o.sequence)
    o.head += total
    store_release(&o.ring.head, o.head)
    ring_the_bell(o)
    return OK


cdef uint64_t outbox_seen(const Outbox* o) noexcept nogil:
    return load_acquire(&o.reply.taken)


cdef bint outbox_may_overlay(const Outbox* o, uint64_t key_hash) noexcept nogil:
    cdef uint64_t applied = load_acquire(&o.reply.applied)
    return load_relaxed(&o.recent[key_hash & (RECENT - 1)]) > applied


cdef int outbox_overlay(const Outbox* o, uint32_t namespace, Span key, uint64_t version,
                        uint64_t* position, Buf* copy, Mail* mail) noexcept nogil:
    """Another thread of this process may meanwhile re-use what became free. It loads `free`,
    fences, then writes; here the record is copied, then a fence, then `free` is looked at: if the
    copy holds a byte of a later lap, `free` has passed it."""
    cdef uint64_t head = load_acquire(&o.ring.head), at = position[0]
    cdef uint64_t start
    cdef Ticket* slot
    cdef uint8_t* p
    cdef const uint8_t* record
    cdef uint32_t total
    cdef uint8_t code
    while at < head:
        start = at
        record = o.data + (at & (o.size - 1))
        first_word(record, &total, &code)
        if code != CODE_FILLER:
            words_out(&mail.record, record, RECORD_HEADER_SIZE)
        fence_acquire()
        if load_acquire(&o.reply.free) > start:
            return BUSY
        if total < 8 or total > o.size:
            return CORRUPT
        at += total
        if (code == CODE_FILLER or mail.record.namespace != namespace
                or mail.record.key_len != key.len):
            continue
        slot = ticket_slot(o.reply, o.size, mail.record.sequence)
        if (load_acquire(&slot.sequence) == mail.record.sequence
                and load_relaxed(&slot.ticket) <= version):
            continue
        buf_clear(copy)
        p = buf_reserve(copy, total)
        if p == NULL:
            return NO_MEMORY
        words_out(p, record, total)
        fence_acquire()
        if load_acquire(&o.reply.free) > start:
            return BUSY
        if memcmp(p + RECORD_HEADER_SIZE, key.ptr, key.len) != 0:
            continue
        position[0] = at
        mail.record.total = total
        return mail_parse(p, mail)
    position[0] = at
    return MISSING


# --- the owner's end ------------------------------------------------------------------------

cdef int mail_parse(const uint8_t* p, Mail* mail) noexcept nogil:
    """Spans of a record of mail.record.total bytes that nobody else can change any more."""
    cdef uint32_t total = mail.record.total
    cdef uint64_t n
    memcpy(&mail.record, p, RECORD_HEADER_SIZE)
    mail.record.total = total    # the length that was bounded and copied, whatever it says now
    n = RECORD_HEADER_SIZE + <uint64_t>mail.record.key_len + mail.record.arg_len
    n += mail.record.extra_len
    if eights(n) != total:
        return CORRUPT
    mail.key = span(p + RECORD_HEADER_SIZE, mail.record.key_len)
    mail.arg = span(mail.key.ptr + mail.key.len, mail.record.arg_len)
    mail.extra = span(mail.arg.ptr + mail.arg.len, mail.record.extra_len)
    return OK


cdef uint64_t reply_size(uint64_t ring_bytes) noexcept nogil:
    return sizeof(Reply) + ring_bytes // 64 * sizeof(Ticket)


cdef int inbox_open(Inbox* b, const Mapping* m, uint32_t ring, Reply* reply,
                    Place start) noexcept nogil:
    cdef uint8_t* base = NULL
    memset(b, 0, sizeof(Inbox))
    buf_init(&b.scratch)
    if ring_at(m, ring, &base, &b.size) != OK or start.position % 8:
        b.status = CORRUPT
        return CORRUPT
    b.ring = <const RingHead*>base
    b.data = base + RING_HEAD_SIZE
    b.position = start.position
    b.head = start.position
    b.sequence = start.sequence
    b.reply = reply
    inbox_durable(b, start)
    inbox_applied(b)
    return OK


cdef void inbox_close(Inbox* b) noexcept nogil:
    buf_free(&b.scratch)
    b.status = CORRUPT


cdef bint inbox_pending(Inbox* b) noexcept nogil:
    return b.status == OK and load_acquire(&b.ring.head) != b.position


cdef int inbox_refuse(Inbox* b) noexcept nogil:
    b.status = CORRUPT
    return CORRUPT


cdef int inbox_next(Inbox* b, Mail* mail) noexcept nogil:
    cdef uint64_t at, rest, head
    cdef uint32_t total
    cdef uint8_t code
    cdef uint8_t* p
    cdef int laps
    for laps in range(2):                        # at most one filler comes before a record
        if unlikely(b.status != OK):
            return CORRUPT
        if b.position == b.head:
            head = load_acquire(&b.ring.head)
            if head == b.position:
                return MISSING
            # Unsigned: a head that went back is as far ahead as it can be.
            if head - b.position > b.size or head % 8:
                return inbox_refuse(b)
            b.head = head
        at = b.position & (b.size - 1)
        rest = b.size - at
        if rest > b.head - b.position:
            rest = b.head - b.position
        first_word(b.data + at, &total, &code)
        if total % 8 or total < 8 or total > rest:
            return inbox_refuse(b)
        if code == CODE_FILLER:
            if at + total != b.size:
                return inbox_refuse(b)
            b.position += total
            continue
        if total < RECORD_HEADER_SIZE or total > b.size // 4:
            return inbox_refuse(b)
        buf_clear(&b.scratch)
        p = buf_reserve(&b.scratch, total)
        if p == NULL:
            return NO_MEMORY
        words_out(p, b.data + at, total)
        mail.record.total = total
        if mail_parse(p, mail) != OK or mail.record.sequence != b.sequence + 1:
            return inbox_refuse(b)
        b.position += total
        b.sequence += 1
        return OK
    return inbox_refuse(b)


cdef void inbox_ticket(Inbox* b, uint64_t sequence, uint64_t ticket) noexcept nogil:
    cdef Ticket* slot = ticket_slot(b.reply, b.size, sequence)
    store_relaxed(&slot.ticket, ticket)
    store_release(&slot.sequence, sequence)


cdef void inbox_applied(Inbox* b) noexcept nogil:
    store_release(&b.reply.applied, b.sequence)
    store_release(&b.reply.taken, b.position)


cdef Place inbox_place(const Inbox* b) noexcept nogil:
    cdef Place place
    place.position = b.position
    place.sequence = b.sequence
    return place


cdef void inbox_durable(Inbox* b, Place place) noexcept nogil:
    cdef uint32_t wake
    store_release(&b.reply.durable, place.sequence)
    store_release(&b.reply.free, place.position)
    fence_seq()
    if load_relaxed(&b.ring.waiting) != 0:
        wake = load32_acquire(&b.reply.wake)
        store32_release(&b.reply.wake, wake + 1)
        linux.futex_wake(&b.reply.wake, 1)


# --- sleeping -------------------------------------------------------------------------------

cdef void bell_sleep(Bell* bell) noexcept nogil:
    store_seq(&bell.asleep, 1)
    fence_seq()


cdef void bell_awake(Bell* bell, int fd) noexcept nogil:
    cdef uint64_t count
    store_relaxed(&bell.asleep, 0)
    linux.read(fd, &count, sizeof(count))        # non-blocking: there may be nothing to read


# --- for tests and diagnosis ----------------------------------------------------------------

cdef int raise_status(int status) except -1:
    if status == OK:
        return 0
    if status == OVER_LIMIT:
        raise ValueError("outside the limits of a mail ring")
    if status == CORRUPT:
        raise ValueError("not a mail file of this layout, or a damaged one")
    if status == BUSY:
        raise TimeoutError("no room in the mail ring")
    if status == BAD_OPERATION:
        raise OSError(linux.errno, "memfd or its seals are refused here")
    raise MemoryError("no memory for mail")


cdef tuple mail_tuple(const Mail* mail):
    return (mail.record.code, mail.record.tag, mail.record.sequence,
            mail.key.ptr[:mail.key.len], mail.arg.ptr[:mail.arg.len],
            mail.extra.ptr[:mail.extra.len], mail.record.namespace, mail.record.flags,
            mail.record.ttl_ms, mail.record.expect, mail.record.stamp.hlc)


cdef class MailClient:
    """A client's mail file and its ends of the rings, from Python. Not thread-safe.

    Raises ValueError for sizes outside the limits, TimeoutError when a ring stays full.
    """
    cdef Mapping file
    cdef Arena owner
    cdef Outbox* boxes
    cdef readonly uint32_t rings

    def __cinit__(self, uint32_t rings=1, uint64_t ring_bytes=65536, uint64_t incarnation=1):
        self.file.fd = -1
        raise_status(mail_create(&self.file, rings, ring_bytes, 0, 1, incarnation))
        self.boxes = <Outbox*>calloc(rings, sizeof(Outbox))
        if self.boxes == NULL:
            raise MemoryError
        self.rings = rings

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.rings):
            outbox_close(&self.boxes[i])
        free(self.boxes)
        if self.file.base != NULL:
            mapping_close(&self.file)
        if self.owner.base != NULL:
            arena_close(&self.owner)

    @property
    def fd(self) -> int:
        return self.file.fd

    def attach(self, int owner_fd, list replies, uint64_t bell, int bell_fd) -> None:
        """Meets an owner: its arena, where in it the reply blocks and the bell are, its eventfd."""
        cdef uint32_t i
        cdef bint again = self.owner.base != NULL
        if again:
            arena_close(&self.owner)
        raise_status(arena_attach(&self.owner, owner_fd))
        for i in range(self.rings):
            reply = <Reply*>(self.owner.base + <uint64_t>replies[i])
            if again:
                outbox_attach(&self.boxes[i], reply, <Bell*>(self.owner.base + bell), bell_fd)
            else:
                raise_status(outbox_open(&self.boxes[i], &self.file, i, reply,
                                         <Bell*>(self.owner.base + bell), bell_fd))

    def post(self, bytes key, bytes arg=b"", *, int code=2, int tag=8, uint32_t ring=0,
             uint32_t namespace=1, bytes extra=b"", int64_t ttl_ms=-1, int flags=0,
             uint64_t expect=0, uint64_t hlc=0, double timeout=1.0) -> int:
        cdef Mail mail
        cdef int64_t timeout_ns = <int64_t>(timeout * 1e9)
        cdef int status
        if ring >= self.rings or self.boxes[ring].reply == NULL:
            raise ValueError("no such ring, or no owner yet")
        memset(&mail, 0, sizeof(Mail))
        mail.record.code = <uint8_t>code
        mail.record.tag = <uint8_t>tag
        mail.record.flags = <uint16_t>flags
        mail.record.namespace = namespace
        mail.record.ttl_ms = ttl_ms
        mail.record.expect = expect
        mail.record.stamp.hlc = hlc
        mail.key = span_of_bytes(key)
        mail.arg = span_of_bytes(arg)
        mail.extra = span_of_bytes(extra)
        with nogil:
            status = outbox_post(&self.boxes[ring], &mail,
                                 hash64(mail.key.ptr, mail.key.len, 0), timeout_ns)
        raise_status(status)
        return mail.record.sequence

    def seen(self, uint32_t ring=0) -> int:
        return outbox_seen(&self.boxes[ring])

    def may_overlay(self, bytes key, uint32_t ring=0) -> bool:
        cdef Span k = span_of_bytes(key)
        return outbox_may_overlay(&self.boxes[ring], hash64(k.ptr, k.len, 0))

    def overlay(self, bytes key, uint64_t version, uint64_t position, *, uint32_t ring=0,
                uint32_t namespace=1) -> list[tuple] | None:
        """Own operations that an entry of that version lacks; None: overtaken, read it again."""
        cdef Buf copy
        cdef Mail mail
        cdef int status
        cdef list out = []
        buf_init(&copy)
        try:
            while True:
                status = outbox_overlay(&self.boxes[ring], namespace, span_of_bytes(key), version,
                                        &position, &copy, &mail)
                if status == MISSING:
                    return out
                if status == BUSY:
                    return None
                raise_status(status)
                out.append(mail_tuple(&mail))
        finally:
            buf_free(&copy)

    def place(self, uint64_t sequence, uint32_t ring=0) -> tuple[int, int]:
        """Where a new owner goes on that has everything up to `sequence`; KeyError: not here."""
        cdef Place place
        if outbox_place(&self.boxes[ring], sequence, &place) != OK:
            raise KeyError(sequence)
        return place.position, place.sequence


cdef class MailOwner:
    """The owner's ends of one client's rings, from Python, with an arena for the replies."""
    cdef Mapping file
    cdef Arena arena
    cdef Inbox* boxes
    cdef Bell* bell
    cdef readonly uint32_t rings
    cdef readonly list replies
    cdef readonly uint64_t bell_at
    cdef readonly int bell_fd

    def __cinit__(self, int fd, list places=None):
        cdef MailHeader h
        cdef Place start
        cdef uint64_t at
        cdef uint32_t i
        self.bell_fd = -1
        self.file.fd = -1
        self.arena.map.fd = -1
        raise_status(mapping_attach(&self.file, fd, False))
        raise_status(mail_check(&self.file, fd))
        words_out(&h, self.file.base, sizeof(MailHeader))
        raise_status(arena_create(&self.arena, 65536 + h.rings * (8192 + reply_size(h.ring_bytes)),
                                  ARENA_MEMFD, NULL, 1, 1))
        self.boxes = <Inbox*>calloc(h.rings, sizeof(Inbox))
        self.bell_at = arena_reserve(&self.arena, sizeof(Bell))
        if self.boxes == NULL or self.bell_at == 0:
            raise MemoryError
        self.rings = h.rings
        self.bell = <Bell*>(self.arena.base + self.bell_at)
        self.bell_fd = linux.eventfd(0, linux.EFD_CLOEXEC | linux.EFD_NONBLOCK)
        self.replies = []
        for i in range(h.rings):
            start.position, start.sequence = places[i] if places else (0, 0)
            at = arena_reserve(&self.arena, reply_size(h.ring_bytes))
            if at == 0:
                raise MemoryError
            self.replies.append(at)
            raise_status(inbox_open(&self.boxes[i], &self.file, i,
                                    <Reply*>(self.arena.base + at), start))

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.rings):
            inbox_close(&self.boxes[i])
        free(self.boxes)
        if self.bell_fd >= 0:
            linux.close(self.bell_fd)
        if self.file.base != NULL:
            mapping_close(&self.file)
        if self.arena.base != NULL:
            arena_close(&self.arena)

    @property
    def fd(self) -> int:
        """The arena's descriptor; hand out reader_fd()."""
        return self.arena.map.fd

    def reader_fd(self) -> int:
        return mapping_reader_fd(&self.arena.map)

    def next(self, uint32_t ring=0) -> tuple | None:
        """The next operation; None: none there. ValueError: the ring is damaged, for ever."""
        cdef Mail mail
        cdef int status = inbox_next(&self.boxes[ring], &mail)
        if status == MISSING:
            return None
        raise_status(status)
        return mail_tuple(&mail)

    def ticket(self, uint64_t sequence, uint64_t ticket, uint32_t ring=0) -> None:
        inbox_ticket(&self.boxes[ring], sequence, ticket)

    def applied(self, uint32_t ring=0) -> None:
        inbox_applied(&self.boxes[ring])

    def durable(self, uint32_t ring=0) -> None:
        inbox_durable(&self.boxes[ring], inbox_place(&self.boxes[ring]))

    def pending(self, uint32_t ring=0) -> bool:
        return inbox_pending(&self.boxes[ring])

    def sleep(self, double timeout) -> bool:
        """Waits until a client rings, at most `timeout` seconds; whether there may be mail."""
        cdef linux.pollfd_t p
        cdef uint32_t i
        cdef int found = 0, ms = <int>(timeout * 1000)
        p.fd = self.bell_fd
        p.events = linux.POLLIN
        p.revents = 0
        bell_sleep(self.bell)
        for i in range(self.rings):
            found |= inbox_pending(&self.boxes[i])
        if not found:
            with nogil:
                found = linux.poll(&p, 1, ms)
        bell_awake(self.bell, self.bell_fd)
        return found > 0
