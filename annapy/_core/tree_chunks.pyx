"""Building, exporting, importing trees; tree_chunks.pxd has the form of the records."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from annapy._core.codec cimport (
    CORRUPT, NO_MEMORY, OK, OVER_LIMIT, Buf, Cursor, Span, buf_free, buf_init, buf_put,
    buf_reserve, buf_span, buf_u64, buf_u8, buf_varint, cur_counted, cur_left, cur_rest, cur_take,
    cur_u64, cur_u8, cur_varint, cursor, load_u64, span, span_compare, varint_size,
)
from annapy._core.joins_set cimport Coll, Entry, coll_next, coll_open, coll_step
from annapy._core.tree cimport (
    INNER_BYTES_MAX, INNER_LIMIT, INNER_MAX, INNER_MIN, LEAF_LIMIT, LEAF_MAX, LEAF_MIN,
    TREE_BYTES_MAX, TREE_HEIGHT_MAX, TreeNode, TreeOwner, TreePiece, TreeRoot, TreeStep,
    inner_children, inner_separator, leaf_entries, leaf_starts, tree_common, tree_free_node,
    tree_inner_new, tree_leaf_new, tree_node, tree_prefix, tree_publish, tree_release, tree_root,
    tree_root_new,
)

__all__: list = []

cdef enum:
    LEAF = 0
    INNER = 1
    ROOT = 2


# --- from the flat form ---------------------------------------------------------------------

cdef struct Build:
    TreeOwner* o
    Buf pieces                   # TreePiece of the level being made
    Buf made                     # every node so far, u64


cdef int build_piece(Build* b, uint64_t node, uint64_t total, Span separator) noexcept nogil:
    cdef TreePiece piece
    if node == 0:
        return NO_MEMORY
    piece.child = node
    piece.total = total
    piece.separator = separator
    buf_put(&b.made, &node, sizeof(node))
    if b.made.status != OK:
        tree_free_node(b.o, node)
        return NO_MEMORY
    buf_put(&b.pieces, &piece, sizeof(piece))
    return b.pieces.status


cdef int build_leaf(Build* b, const uint8_t* start, const uint8_t* end, uint32_t count,
                    Span separator) noexcept nogil:
    """A leaf of the entries that lie in [start, end)."""
    cdef uint64_t at = tree_leaf_new(b.o, count, <uint32_t>(end - start), 0)
    cdef TreeNode* n
    cdef Cursor c
    cdef Entry e
    cdef uint32_t i
    if at:
        n = tree_node(b.o.base, at)
        memcpy(leaf_entries(n), start, <size_t>(end - start))
        c.at = start
        c.end = end
        for i in range(count):
            leaf_starts(n)[i] = <uint16_t>(c.at - start)
            coll_next(&c, &e)
    return build_piece(b, at, count, separator)


cdef int build_leaves(Build* b, Coll* c, uint64_t* bytes) noexcept nogil:
    """Checks the framing and the order on the way. Leaves are left a quarter empty."""
    cdef const uint8_t* start = c.entries.at
    cdef const uint8_t* end = start
    cdef Span last = span(NULL, 0), separator = span(NULL, 0), before = last
    cdef Entry e
    cdef uint64_t n = 0
    cdef uint32_t count = 0
    cdef int status
    bytes[0] = cur_left(&c.entries)
    while c.entries.at < c.entries.end:
        before = last
        if coll_step(&c.entries, &e, &last, n) != OK:
            return CORRUPT
        if count and e.next - start > LEAF_MAX - LEAF_MIN:
            status = build_leaf(b, start, end, count, separator)
            if status != OK:
                return status
            start = e.start
            count = 0
            separator = span(e.key.ptr, tree_common(before, e.key) + 1)
        end = e.next
        count += 1
        n += 1
    if n != c.count:
        return CORRUPT
    return build_leaf(b, start, end, count, separator) if count else OK


cdef int build_level(Build* b, uint8_t level) noexcept nogil:
    """The level above that of `pieces`, which it replaces."""
    cdef Buf below = b.pieces
    cdef const TreePiece* piece = <const TreePiece*>below.ptr
    cdef size_t n = below.len // sizeof(TreePiece), first = 0, i
    cdef uint64_t bytes = 0, total = 0
    cdef int status = OK
    buf_init(&b.pieces)
    for i in range(n + 1):
        if i == n or i - first == INNER_MAX - INNER_MIN // 2 or (
                i - first >= 2 and bytes + piece[i].separator.len > INNER_BYTES_MAX):
            status = build_piece(
                b, tree_inner_new(b.o, piece + first, <uint32_t>(i - first), level), total,
                piece[first].separator)
            if status != OK or i == n:
                break
            first = i
            bytes = total = 0
        bytes += piece[i].separator.len
        total += piece[i].total
    buf_free(&below)
    return status


cdef int build_tree(Build* b, Coll* c, TreeRoot* r) noexcept nogil:
    cdef int status = build_leaves(b, c, &r.bytes)
    cdef uint8_t level = 0
    while status == OK and b.pieces.len > sizeof(TreePiece):
        level += 1
        if level + 1 >= TREE_HEIGHT_MAX:
            return OVER_LIMIT
        status = build_level(b, level)
    if status == OK and b.pieces.len:
        r.top = (<TreePiece*>b.pieces.ptr).child
        r.height = level + 1
        r.count = c.count
    return status


cdef int tree_build(TreeOwner* o, Span flat, uint64_t* root) noexcept nogil:
    cdef Build b
    cdef Coll c
    cdef int status
    cdef uint64_t at
    cdef size_t i
    if flat.len > TREE_BYTES_MAX:
        return OVER_LIMIT
    if coll_open(flat, &c) != OK:
        return CORRUPT
    at = tree_root_new(o, c.prefix)
    if at == 0:
        return NO_MEMORY
    b.o = o
    buf_init(&b.pieces)
    buf_init(&b.made)
    status = build_tree(&b, &c, tree_root(o.base, at))
    if status == OK:
        root[0] = at
    else:
        for i in range(b.made.len // sizeof(uint64_t)):
            tree_free_node(o, (<uint64_t*>b.made.ptr)[i])
        tree_release(o, at)
    buf_free(&b.pieces)
    buf_free(&b.made)
    return status


# --- out ------------------------------------------------------------------------------------

cdef void put_root(const uint8_t* base, uint64_t root, Buf* out) noexcept nogil:
    cdef TreeRoot* r = tree_root(base, root)
    buf_u64(out, r.id)
    buf_varint(out, 10 + varint_size(r.count) + varint_size(r.bytes) + r.prefix_len)
    buf_u8(out, ROOT)
    buf_u8(out, <uint8_t>r.height)
    buf_varint(out, r.count)
    buf_varint(out, r.bytes)
    buf_u64(out, tree_node(base, r.top).id if r.top else 0)
    buf_span(out, tree_prefix(base, root))


cdef void put_node(const uint8_t* base, uint64_t node, Buf* out) noexcept nogil:
    cdef const TreeNode* n = tree_node(base, node)
    cdef uint32_t i
    cdef uint64_t size = 2 + varint_size(n.count) + 8 * <uint64_t>n.count
    buf_u64(out, n.id)
    if n.level == 0:
        buf_varint(out, 1 + varint_size(n.count) + n.used)
        buf_u8(out, LEAF)
        buf_varint(out, n.count)
        buf_put(out, leaf_entries(n), n.used)
        return
    for i in range(1, n.count):
        size += varint_size(inner_separator(n, i).len) + inner_separator(n, i).len
    buf_varint(out, size)
    buf_u8(out, INNER)
    buf_u8(out, n.level)
    buf_varint(out, n.count)
    for i in range(n.count):
        buf_u64(out, tree_node(base, inner_children(n)[i]).id)
    for i in range(1, n.count):
        buf_varint(out, inner_separator(n, i).len)
        buf_span(out, inner_separator(n, i))


cdef int walk(const uint8_t* base, uint64_t root, uint64_t since, bint ids,
              Buf* out) noexcept nogil:
    """Every node with an id > since, parents first: its record, or its id alone."""
    cdef TreeStep step[TREE_HEIGHT_MAX]
    cdef TreeNode* n
    cdef int depth = 0
    cdef uint64_t at = tree_root(base, root).top
    while at or depth:
        if at and tree_node(base, at).id > since:
            if ids:
                buf_u64(out, tree_node(base, at).id)
            else:
                put_node(base, at, out)
            if tree_node(base, at).level:
                step[depth].node = at
                step[depth].index = 0
                depth += 1
        at = 0
        if depth:
            n = tree_node(base, step[depth - 1].node)
            if step[depth - 1].index < n.count:
                at = inner_children(n)[step[depth - 1].index]
                step[depth - 1].index += 1
            else:
                depth -= 1
    return out.status


cdef int tree_new_nodes(const uint8_t* base, uint64_t root, uint64_t since,
                        Buf* out) noexcept nogil:
    put_root(base, root, out)
    return walk(base, root, since, False, out)


cdef int tree_dead_nodes(const uint8_t* base, uint64_t old, uint64_t root,
                         Buf* out) noexcept nogil:
    cdef TreeRoot* first = tree_root(base, old)
    cdef TreeRoot* r = first
    cdef uint64_t at = old, node
    if old == root:
        return out.status
    while at and at != root:
        at = tree_root(base, at).newer
    buf_u64(out, first.id)
    if at == 0:
        return walk(base, old, 0, True, out)
    at = old
    while at != root:
        r = tree_root(base, at)
        node = r.retired
        while node:
            if tree_node(base, node).id <= first.last:
                buf_u64(out, tree_node(base, node).id)
            node = tree_node(base, node).link
        at = r.newer
    return out.status


# --- in -------------------------------------------------------------------------------------

cdef struct Record:
    uint64_t id
    Span node
    bint used


cdef struct Frame:               # an inner node whose children are being made
    Record* record
    Cursor ids
    Cursor separators
    size_t pieces                # where its own begin in Import.build.pieces, in bytes
    uint64_t left
    uint64_t entries
    uint8_t level


cdef struct Import:
    Build build
    Record* records
    size_t n
    size_t used
    Frame frame[TREE_HEIGHT_MAX]
    int depth
    uint64_t count               # entries so far
    uint64_t bytes
    Span last                    # key
    Span bound                   # the next key is not less


cdef int by_id(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const Record*>a).id, y = (<const Record*>b).id
    return (x > y) - (x < y)


cdef int read_records(Span records, Buf* out, Record** root) noexcept nogil:
    """All records, ascending by id."""
    cdef Cursor c = cursor(records)
    cdef Record r
    cdef Record* list_
    cdef size_t n, i
    memset(&r, 0, sizeof(r))
    while c.at < c.end:
        if cur_u64(&c, &r.id) != OK or cur_counted(&c, &r.node) != OK or r.node.len == 0:
            return CORRUPT
        if r.id == 0 or r.id >> 62:
            return CORRUPT
        buf_put(out, &r, sizeof(r))
    if out.status != OK:
        return out.status
    list_ = <Record*>out.ptr
    n = out.len // sizeof(Record)
    root[0] = NULL
    if n:
        qsort(list_, n, sizeof(Record), &by_id)
    for i in range(n):
        if i and list_[i].id == list_[i - 1].id:
            return CORRUPT
        if list_[i].node.ptr[0] == ROOT:
            if root[0] != NULL:
                return CORRUPT
            root[0] = &list_[i]
    return OK if root[0] != NULL else CORRUPT


cdef Record* find_record(Import* m, uint64_t id) noexcept nogil:
    """Marks it as used; NULL: there is none, or it was used before."""
    cdef size_t low = 0, high = m.n, middle
    while low < high:
        middle = (low + high) >> 1
        if m.records[middle].id < id:
            low = middle + 1
        else:
            high = middle
    if low == m.n or m.records[low].id != id or m.records[low].used:
        return NULL
    m.records[low].used = True
    m.used += 1
    return &m.records[low]


cdef int import_leaf(Import* m, Record* r, Span separator) noexcept nogil:
    cdef Cursor c = cursor(r.node)
    cdef uint8_t kind = 0
    cdef uint64_t count = 0, n = 0, size
    cdef const uint8_t* start
    cdef Entry e
    cdef int status
    if cur_u8(&c, &kind) != OK or kind != LEAF or cur_varint(&c, &count) != OK or count == 0:
        return CORRUPT
    size = cur_left(&c)
    if size > (TREE_BYTES_MAX if count == 1 else LEAF_LIMIT) or count > size:
        return CORRUPT
    start = c.at
    while c.at < c.end:
        if coll_step(&c, &e, &m.last, m.count + n) != OK:
            return CORRUPT
        if n == 0 and span_compare(e.key, m.bound) < 0:
            return CORRUPT
        n += 1
    if n != count:
        return CORRUPT
    m.count += n
    m.bytes += size
    if m.depth:
        m.frame[m.depth - 1].entries += n
    status = build_leaf(&m.build, start, c.end, <uint32_t>count, separator)
    if status == OK:
        last_made(&m.build).id = r.id
    return status


cdef inline TreeNode* last_made(Build* b) noexcept nogil:
    return tree_node(b.o.base, load_u64(b.made.ptr + b.made.len - 8))


cdef int import_enter(Import* m, Record* r, uint8_t level) noexcept nogil:
    """An inner node: its children come next."""
    cdef Frame* f = &m.frame[m.depth]
    cdef Cursor c = cursor(r.node)
    cdef uint8_t kind = 0
    cdef uint64_t n = 0
    cdef Span ids = span(NULL, 0)
    if (cur_u8(&c, &kind) != OK or kind != INNER or cur_u8(&c, &f.level) != OK
            or f.level != level or cur_varint(&c, &n) != OK or n == 0 or n > INNER_LIMIT
            or cur_take(&c, 8 * n, &ids) != OK):
        return CORRUPT
    f.record = r
    f.ids = cursor(ids)
    f.separators = c
    f.pieces = m.build.pieces.len
    f.left = n
    f.entries = 0
    m.depth += 1
    return OK


cdef int import_leave(Import* m, Span* separator) noexcept nogil:
    """All children are made: so is the node."""
    cdef Frame* f = &m.frame[m.depth - 1]
    cdef Build* b = &m.build
    cdef const TreePiece* pieces = <const TreePiece*>(b.pieces.ptr + f.pieces)
    cdef uint32_t n = <uint32_t>((b.pieces.len - f.pieces) // sizeof(TreePiece))
    cdef uint64_t at, entries = f.entries
    cdef int status
    if cur_left(&f.separators):
        return CORRUPT
    separator[0] = pieces[0].separator
    at = tree_inner_new(b.o, pieces, n, f.level)
    b.pieces.len = f.pieces
    status = build_piece(b, at, entries, separator[0])
    if status == OK:
        last_made(b).id = f.record.id
    m.depth -= 1
    if m.depth:
        m.frame[m.depth - 1].entries += entries
    return status


cdef int import_nodes(Import* m, uint64_t top, uint8_t height) noexcept nogil:
    """In key order, children before their parents, each level checked against its parent's."""
    cdef uint64_t id = top
    cdef uint8_t level = height - 1
    cdef Span separator = span(NULL, 0)
    cdef Frame* f
    cdef Record* r
    cdef int status
    while True:
        r = find_record(m, id)
        if r == NULL:
            return CORRUPT
        status = import_leaf(m, r, separator) if level == 0 else import_enter(m, r, level)
        while status == OK and m.depth and m.frame[m.depth - 1].left == 0:
            status = import_leave(m, &separator)
        if status != OK or m.depth == 0:
            return status
        f = &m.frame[m.depth - 1]
        level = f.level - 1
        cur_u64(&f.ids, &id)
        if m.build.pieces.len != f.pieces:
            if cur_counted(&f.separators, &separator) != OK:
                return CORRUPT
            if span_compare(m.last, separator) >= 0:
                return CORRUPT
            m.bound = separator
        f.left -= 1


cdef int import_tree(Import* m, Record* record, uint64_t* root) noexcept nogil:
    cdef Cursor c = cursor(record.node)
    cdef uint8_t kind = 0, height = 0
    cdef uint64_t count = 0, bytes = 0, top = 0, at
    cdef TreeRoot* r
    cdef int status = OK
    cdef TreeOwner* o = m.build.o
    if (cur_u8(&c, &kind) != OK or cur_u8(&c, &height) != OK or cur_varint(&c, &count) != OK
            or cur_varint(&c, &bytes) != OK or cur_u64(&c, &top) != OK):
        return CORRUPT
    if height >= TREE_HEIGHT_MAX or (height == 0) != (top == 0):
        return CORRUPT
    record.used = True
    m.used = 1
    if height:
        status = import_nodes(m, top, height)
    if status != OK:
        return status
    if m.used != m.n or m.count != count or m.bytes != bytes or bytes > TREE_BYTES_MAX:
        return CORRUPT
    at = tree_root_new(o, cur_rest(&c))
    if at == 0:
        return NO_MEMORY
    r = tree_root(o.base, at)
    r.id = record.id
    r.count = count
    r.bytes = bytes
    r.height = height
    r.top = (<TreePiece*>m.build.pieces.ptr).child if height else 0
    root[0] = at
    return OK


cdef int tree_import(TreeOwner* o, Span records, uint64_t* root) noexcept nogil:
    cdef Import m
    cdef Buf list_
    cdef Record* record = NULL
    cdef size_t i
    cdef int status
    memset(&m, 0, sizeof(m))
    m.build.o = o
    buf_init(&m.build.pieces)
    buf_init(&m.build.made)
    buf_init(&list_)
    status = read_records(records, &list_, &record)
    if status == OK:
        m.records = <Record*>list_.ptr
        m.n = list_.len // sizeof(Record)
        status = import_tree(&m, record, root)
    if status == OK:
        if o.next_id <= m.records[m.n - 1].id:
            o.next_id = m.records[m.n - 1].id + 1
        tree_publish(o, root[0])
    else:
        for i in range(m.build.made.len // sizeof(uint64_t)):
            tree_free_node(o, (<uint64_t*>m.build.made.ptr)[i])
    buf_free(&list_)
    buf_free(&m.build.pieces)
    buf_free(&m.build.made)
    return status
