"""Operations on large collections, and trees from Python; collection.pxd has the reasoning."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from annapy._core.arena cimport (
    ARENA_ANONYMOUS, Arena, Heap, arena_close, arena_create, heap_close, heap_init)
from annapy._core.cell cimport TAG_ORSET, Cell, cell_parse
from annapy._core.clock cimport DOT_SIZE, Context, context_of
from annapy._core.codec cimport (
    CORRUPT, MISSING, NO_MEMORY, OK, WRONG_TYPE, Buf, Cursor, Span, buf_clear,
    buf_free, buf_init, cur_counted, cursor, load_u64, span, span_equal, span_of_bytes)
from annapy._core.joins_set cimport Coll, Entry, coll_next, coll_open, members_sorted
from annapy._core.registry cimport (
    OP_ADD, OP_MERGE, OP_REMOVE, OP_UPDATE, LatticeType, Op, lattice_of)
from annapy._core.tree cimport (
    TreeCursor, TreeOwner, tree_bytes, tree_count, tree_find, tree_flatten, tree_next,
    tree_owner_init, tree_partial, tree_prefix, tree_publish, tree_rank, tree_release, tree_retain,
    tree_root, tree_seek, tree_seek_at)
from annapy._core.tree_change cimport (
    tree_apply_partial, tree_remove, tree_replace_prefix, tree_upsert)
from annapy._core.tree_chunks cimport tree_build, tree_dead_nodes, tree_import, tree_new_nodes

__all__ = ["Tree", "Trees"]

cdef enum:
    REBUILD_FRACTION = 5         # touching more than 1/5 of the entries costs more than all of them


cdef void scratch_init(CollectionScratch* s) noexcept nogil:
    buf_init(&s.partial)
    buf_init(&s.delta)
    buf_init(&s.result)


cdef void scratch_free(CollectionScratch* s) noexcept nogil:
    buf_free(&s.partial)
    buf_free(&s.delta)
    buf_free(&s.result)


cdef inline void scratch_clear(CollectionScratch* s) noexcept nogil:
    buf_clear(&s.partial)
    buf_clear(&s.delta)
    buf_clear(&s.result)


cdef int collection_touched(const Op* op, Span** keys, size_t* n, bint* all) noexcept nogil:
    cdef Cursor c = cursor(op.arg)
    keys[0] = NULL
    n[0] = 0
    all[0] = False
    if op.code == OP_ADD or op.code == OP_REMOVE:
        return members_sorted(op.arg, keys, n)
    if op.code != OP_UPDATE:
        all[0] = True
        return OK
    keys[0] = <Span*>malloc(sizeof(Span))
    if keys[0] == NULL:
        return NO_MEMORY
    n[0] = 1
    return cur_counted(&c, keys[0])


cdef bint removes_elsewhere(const LatticeType* lattice, Coll* c) noexcept nogil:
    """Does joining it remove entries that it does not name? True where that is not known."""
    cdef Context context
    cdef Cursor at = c.entries
    cdef Entry e
    cdef uint64_t covered, held = 0
    cdef size_t i
    if c.prefix.len == 0:
        return False
    if lattice.tag != TAG_ORSET or context_of(c.prefix, &context) != OK:
        return True
    covered = context.dots_n
    for i in range(context.vector_n):
        covered += load_u64(context.vector + i * DOT_SIZE + 8)
    while at.at < at.end and coll_next(&at, &e) == OK:
        held += e.payload.len // DOT_SIZE
    return covered != held


cdef int state_keys(Coll* c, Span** keys, size_t* n) noexcept nogil:
    cdef Cursor at = c.entries
    cdef Entry e
    n[0] = 0
    if c.count == 0:
        return OK
    keys[0] = <Span*>malloc(<size_t>c.count * sizeof(Span))
    if keys[0] == NULL:
        return NO_MEMORY
    while at.at < at.end and n[0] < c.count:
        if coll_next(&at, &e) != OK:
            return CORRUPT
        keys[0][n[0]] = e.key
        n[0] += 1
    return OK


cdef int write_back(TreeOwner* o, CollectionScratch* s, const LatticeType* lattice, Span delta,
                    const Span* keys, size_t n, bint all, uint64_t* root) noexcept nogil:
    """`s.partial` joined with the delta becomes the new state of the touched keys, or of all."""
    cdef Span partial = span(s.partial.ptr, s.partial.len)
    cdef Span result
    cdef uint64_t at = 0
    cdef int status = lattice.join(partial, delta, &s.result)
    if status != OK:
        return status
    result = span(s.result.ptr, s.result.len)
    if span_equal(partial, result):
        return OK
    if not all:
        return tree_apply_partial(o, root, result, keys, n)
    status = tree_build(o, result, &at)
    if status == OK:
        if tree_root(o.base, root[0]).last == 0:
            tree_release(o, root[0])
        root[0] = at
    return status


cdef inline bint most(const TreeOwner* o, uint64_t root, size_t n) noexcept nogil:
    return n > 1 and n * REBUILD_FRACTION > tree_count(o.base, root)


cdef int collection_apply(TreeOwner* o, CollectionScratch* s, const LatticeType* lattice,
                          const Op* op, uint64_t* root) noexcept nogil:
    cdef Span* keys = NULL
    cdef size_t n = 0
    cdef bint all = False
    cdef int status
    cdef Cell cell
    if op.code == OP_MERGE:
        if cell_parse(op.arg, &cell) != OK:
            return CORRUPT
        if cell.tag != lattice.tag:
            return WRONG_TYPE
        return collection_join(o, s, lattice, cell.state, root)
    scratch_clear(s)
    status = collection_touched(op, &keys, &n, &all)
    if status == OK:
        if all or most(o, root[0], n):
            all = True
            status = tree_flatten(o.base, root[0], &s.partial)
        else:
            status = tree_partial(o.base, root[0], keys, n, &s.partial)
    if status == OK:
        status = lattice.mutate(span(s.partial.ptr, s.partial.len), op, &s.delta)
    if status == OK and s.delta.len:
        status = write_back(o, s, lattice, span(s.delta.ptr, s.delta.len), keys, n, all, root)
    free(keys)
    return status


cdef int collection_join(TreeOwner* o, CollectionScratch* s, const LatticeType* lattice, Span state,
                         uint64_t* root) noexcept nogil:
    cdef Span* keys = NULL
    cdef size_t n = 0
    cdef Coll c
    cdef bint all
    cdef int status
    scratch_clear(s)
    if coll_open(state, &c) != OK:
        return CORRUPT
    if state.len == 0:
        return OK
    all = c.count > state.len or most(o, root[0], <size_t>c.count) or removes_elsewhere(lattice, &c)
    status = OK if all else state_keys(&c, &keys, &n)
    if status == OK:
        if all:
            status = tree_flatten(o.base, root[0], &s.partial)
        else:
            status = tree_partial(o.base, root[0], keys, n, &s.partial)
    if status == OK:
        status = write_back(o, s, lattice, state, keys, n, all, root)
    free(keys)
    return status


# --- from Python: for tests and measurements ------------------------------------------------

cdef extern from *:
    """
    /* Or else the compiler leaves out what is written just before free. */
    #define annapy_written(p) __asm__ __volatile__("" : : "r"(p) : "memory")
    """
    void written "annapy_written"(void* p) noexcept nogil


cdef struct MallocHeap:          # each slab is a malloc of its own, poisoned when it is freed
    uint64_t used
    int64_t failing_from         # allocations that still succeed; negative: all


cdef uint64_t malloc_alloc(void* heap, uint64_t size) noexcept nogil:
    cdef MallocHeap* h = <MallocHeap*>heap
    cdef void* p
    if h.failing_from == 0:
        return 0
    if h.failing_from > 0:
        h.failing_from -= 1
    p = malloc(size)
    if p != NULL:
        h.used += size
    return <uint64_t>p


cdef void malloc_free(void* heap, uint64_t offset, uint64_t size) noexcept nogil:
    (<MallocHeap*>heap).used -= size
    memset(<void*>offset, 0xDD, size)
    written(<void*>offset)
    free(<void*>offset)


cdef object failed(int status):
    if status == NO_MEMORY:
        return MemoryError("no memory for the tree")
    if status == CORRUPT:
        return ValueError("not a canonical collection, or not a tree's nodes")
    if status == MISSING:
        return KeyError("no such key")
    return ValueError(f"status {status}")


cdef class Trees:
    """The owner of trees. capacity: bytes of an arena of its own; 0: every node is a malloc.

    Internal: for tests and measurements. Not thread-safe; a Tree that is read in another thread
    must be held there. Raises MemoryError, ValueError.
    """
    cdef TreeOwner owner
    cdef MallocHeap small
    cdef Arena arena
    cdef Heap heap
    cdef CollectionScratch scratch

    def __cinit__(self, uint64_t capacity=0):
        scratch_init(&self.scratch)
        self.small.failing_from = -1
        if capacity:
            if (arena_create(&self.arena, capacity, ARENA_ANONYMOUS, NULL, 1, 1) != OK
                    or heap_init(&self.heap, &self.arena) != OK):
                raise MemoryError(f"cannot map {capacity} bytes")
            tree_owner_init(&self.owner, &self.heap)
        else:
            self.owner.heap = &self.small
            self.owner.alloc = &malloc_alloc
            self.owner.free = &malloc_free
            self.owner.next_id = 1

    def __dealloc__(self):
        scratch_free(&self.scratch)
        if self.heap.arena != NULL:
            heap_close(&self.heap)
        if self.arena.base != NULL:
            arena_close(&self.arena)

    @property
    def slabs(self) -> int:
        """Nodes and roots that live."""
        return self.owner.slabs

    @property
    def used(self) -> int:
        """Bytes of them."""
        return self.heap.used if self.heap.arena != NULL else self.small.used

    @property
    def next_id(self) -> int:
        return self.owner.next_id

    @next_id.setter
    def next_id(self, uint64_t value) -> None:
        self.owner.next_id = value

    def fail_after(self, int64_t n) -> None:
        """The n-th allocation from now on and all later ones fail; -1: none. Not with an arena."""
        self.small.failing_from = n

    def build(self, bytes flat) -> Tree:
        """Of a flat state."""
        cdef uint64_t root = 0
        cdef int status = tree_build(&self.owner, span_of_bytes(flat), &root)
        if status != OK:
            raise failed(status)
        return held(self, root)

    def load(self, bytes records) -> Tree:
        """Of the records of Tree.nodes."""
        cdef uint64_t root = 0
        cdef int status = tree_import(&self.owner, span_of_bytes(records), &root)
        if status != OK:
            raise failed(status)
        return held(self, root)


cdef Tree held(Trees trees, uint64_t root):
    """Takes over one reference to a root, which is published by it."""
    cdef Tree tree = Tree.__new__(Tree)
    tree_publish(&trees.owner, root)
    tree.trees = trees
    tree.root = root
    tree.base = trees.owner.base
    return tree


cdef bytes taken(Buf* out, int status):
    try:
        if status != OK:
            raise failed(status)
        return PyBytes_FromStringAndSize(<char*>out.ptr, <Py_ssize_t>out.len)
    finally:
        buf_free(out)


cdef int spans_of(list keys, Span** out) except -1:
    """Of sorted, unique bytes that the caller holds."""
    cdef Py_ssize_t i
    out[0] = <Span*>malloc((len(keys) + 1) * sizeof(Span))
    if out[0] == NULL:
        raise MemoryError
    for i in range(len(keys)):
        out[0][i] = span_of_bytes(keys[i])
    return 0


cdef class Tree:
    """One published version of a tree; released with the object. Internal, see Trees."""
    cdef Trees trees
    cdef uint64_t root
    cdef const uint8_t* base

    def __dealloc__(self):
        if self.trees is not None:
            tree_release(&self.trees.owner, self.root)

    def __len__(self) -> int:
        return tree_count(self.base, self.root)

    def __contains__(self, bytes key) -> bool:
        cdef Entry e
        return tree_find(self.base, self.root, span_of_bytes(key), &e) == OK

    def __getitem__(self, bytes key) -> bytes:
        cdef Entry e
        if tree_find(self.base, self.root, span_of_bytes(key), &e) != OK:
            raise KeyError(key)
        return e.payload.ptr[:e.payload.len]

    @property
    def prefix(self) -> bytes:
        cdef Span s = tree_prefix(self.base, self.root)
        return s.ptr[:s.len]

    @property
    def size(self) -> int:
        """Bytes of the flat form."""
        return tree_bytes(self.base, self.root)

    @property
    def height(self) -> int:
        return tree_root(self.base, self.root).height

    @property
    def last(self) -> int:
        """The greatest id of a node of this version."""
        return tree_root(self.base, self.root).last

    def flatten(self) -> bytes:
        cdef Buf out
        cdef int status
        buf_init(&out)
        with nogil:
            status = tree_flatten(self.base, self.root, &out)
        return taken(&out, status)

    def items(self, bytes first=b"", *, index: int = -1) -> list:
        """(key, payload) from the first key >= `first`, or from that number, to the end."""
        cdef TreeCursor c
        cdef Entry e
        if index < 0:
            tree_seek(self.base, self.root, span_of_bytes(first), &c)
        else:
            tree_seek_at(self.base, self.root, index, &c)
        out = []
        while tree_next(&c, &e):
            out.append((e.key.ptr[:e.key.len], e.payload.ptr[:e.payload.len]))
        return out

    def rank(self, bytes key) -> int:
        return tree_rank(self.base, self.root, span_of_bytes(key))

    def partial(self, list keys) -> bytes:
        """The flat state of those keys, ascending and unique."""
        cdef Span* spans = NULL
        cdef Buf out
        cdef int status
        buf_init(&out)
        spans_of(keys, &spans)
        status = tree_partial(self.base, self.root, spans, len(keys), &out)
        free(spans)
        return taken(&out, status)

    def edit(self, list changes, bytes prefix=None) -> Tree:
        """A new version: (key, payload) is put, (key, None) removed; removing nothing is fine."""
        cdef TreeOwner* o = &self.trees.owner
        cdef uint64_t root = self.root
        cdef int status = OK
        if prefix is None:
            prefix = self.prefix
        status = tree_replace_prefix(o, &root, span_of_bytes(prefix))
        if status != OK:
            raise failed(status)
        for key, payload in changes:
            if payload is None:
                status = tree_remove(o, &root, span_of_bytes(key))
                status = OK if status == MISSING else status
            else:
                status = tree_upsert(o, &root, span_of_bytes(key), span_of_bytes(payload))
            if status != OK:
                tree_release(o, root)
                raise failed(status)
        return held(self.trees, root)

    def upsert(self, bytes key, bytes payload) -> Tree:
        """One change of a published version."""
        cdef uint64_t root = self.root
        cdef int status = tree_upsert(&self.trees.owner, &root, span_of_bytes(key),
                                      span_of_bytes(payload))
        if status != OK:
            raise failed(status)
        return held(self.trees, root)

    def remove(self, bytes key) -> Tree:
        cdef uint64_t root = self.root
        cdef int status = tree_remove(&self.trees.owner, &root, span_of_bytes(key))
        if status != OK:
            raise failed(status)
        return held(self.trees, root)

    def write(self, bytes partial, list keys) -> Tree:
        """What tree_apply_partial does."""
        cdef Span* spans = NULL
        cdef uint64_t root = self.root
        cdef int status
        spans_of(keys, &spans)
        status = tree_apply_partial(&self.trees.owner, &root, span_of_bytes(partial), spans,
                                    len(keys))
        free(spans)
        if status != OK:
            raise failed(status)
        return held(self.trees, root)

    def apply(self, int tag, int code, bytes arg, uint64_t actor, stamp=(0, 0, 0)) -> Tree:
        """An operation of a lattice; the same object if nothing changed."""
        cdef Op op
        cdef uint64_t root = self.root
        cdef int status
        fill(&op, tag, code, span_of_bytes(arg), actor)
        op.stamp.hlc, op.stamp.actor, op.stamp.client = stamp
        with nogil:
            status = collection_apply(&self.trees.owner, &self.trees.scratch, lattice_of(op.tag),
                                      &op, &root)
        if status != OK:
            raise failed(status)
        return self if root == self.root else held(self.trees, root)

    def join(self, int tag, bytes state) -> Tree:
        """With a verified flat state; the same object if nothing changed."""
        cdef uint64_t root = self.root
        cdef int status = collection_join(&self.trees.owner, &self.trees.scratch,
                                          lattice_of(<uint8_t>tag), span_of_bytes(state), &root)
        if status != OK:
            raise failed(status)
        return self if root == self.root else held(self.trees, root)

    def nodes(self, uint64_t since=0) -> bytes:
        """Records of the root and of the nodes with a greater id."""
        cdef Buf out
        buf_init(&out)
        return taken(&out, tree_new_nodes(self.base, self.root, since, &out))

    def dead(self, Tree newer) -> list:
        """Ids of what this version has and the newer one has not."""
        cdef Buf out
        buf_init(&out)
        cdef bytes ids = taken(&out, tree_dead_nodes(self.base, self.root, newer.root, &out))
        return [int.from_bytes(ids[i:i + 8], "little") for i in range(0, len(ids), 8)]

    def apply_each(self, int tag, int code, list args, uint64_t actor) -> Tree:
        """Every operation a version of its own, published and the one before released, as a shard
        does: what the measurements time."""
        cdef TreeOwner* o = &self.trees.owner
        cdef Span* spans = NULL
        cdef Op op
        cdef uint64_t root = self.root, old
        cdef size_t i, n = len(args)
        cdef int status = OK
        spans_of(args, &spans)
        fill(&op, tag, code, span(NULL, 0), actor)
        tree_retain(o, root)
        with nogil:
            for i in range(n):
                op.arg = spans[i]
                old = root
                status = collection_apply(o, &self.trees.scratch, lattice_of(op.tag), &op, &root)
                if status != OK:
                    break
                if root != old:
                    tree_publish(o, root)
                    tree_release(o, old)
        free(spans)
        if status != OK:
            tree_release(o, root)
            raise failed(status)
        return held(self.trees, root)

    def count_of(self, list keys) -> int:
        """How many of them are there: what the measurements time."""
        cdef Span* spans = NULL
        cdef Entry e
        cdef size_t i, n = len(keys), found = 0
        spans_of(keys, &spans)
        with nogil:
            for i in range(n):
                found += tree_find(self.base, self.root, spans[i], &e) == OK
        free(spans)
        return found


cdef void fill(Op* op, int tag, int code, Span arg, uint64_t actor) noexcept:
    memset(op, 0, sizeof(Op))
    op.code = <uint8_t>code
    op.tag = <uint8_t>tag
    op.arg = arg
    op.actor = actor
