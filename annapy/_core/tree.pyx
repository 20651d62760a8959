"""Path-copied B+trees: memory, search, readers, versions; tree.pxd has the layout and the rules."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from annapy._core.arena cimport Heap, heap_alloc, heap_free
from annapy._core.codec cimport (
    BAD_OPERATION, MISSING, NO_MEMORY, OK, OVER_LIMIT, Buf, Span, buf_put, buf_reserve, buf_span,
    buf_varint, likely, span, span_compare, varint_size,
)
from annapy._core.dotted cimport count_begin, count_end
from annapy._core.joins_set cimport Entry, coll_head, load_big

__all__: list = []

cdef extern from *:
    """
    #define annapy_prefetch(p) __builtin_prefetch(p)
    """
    void prefetch "annapy_prefetch"(const void* p) noexcept nogil

assert sizeof(TreeRoot) == 96
assert sizeof(TreeNode) == 32


# --- memory ---------------------------------------------------------------------------------

cdef uint64_t from_heap(void* heap, uint64_t size) noexcept nogil:
    return heap_alloc(<Heap*>heap, size)


cdef void to_heap(void* heap, uint64_t offset, uint64_t size) noexcept nogil:
    heap_free(<Heap*>heap, offset, size)


cdef void tree_owner_init(TreeOwner* o, Heap* heap) noexcept nogil:
    o.base = heap.arena.base
    o.heap = heap
    o.alloc = &from_heap
    o.free = &to_heap
    o.next_id = 1
    o.slabs = 0


cdef uint64_t tree_take(TreeOwner* o, uint64_t size) noexcept nogil:
    cdef uint64_t at = o.alloc(o.heap, size)
    o.slabs += at != 0
    return at


cdef inline void give(TreeOwner* o, uint64_t at, uint64_t size) noexcept nogil:
    o.free(o.heap, at, size)
    o.slabs -= 1


cdef uint64_t tree_mint(TreeOwner* o) noexcept nogil:
    o.next_id += 1
    return o.next_id - 1


cdef void tree_free_node(TreeOwner* o, uint64_t node) noexcept nogil:
    give(o, node, tree_node(o.base, node).size)


cdef uint64_t tree_root_new(TreeOwner* o, Span prefix) noexcept nogil:
    """An empty tree with that prefix, not published."""
    cdef uint64_t size = sizeof(TreeRoot) + prefix.len
    cdef uint64_t at
    cdef TreeRoot* r
    if size > TREE_BYTES_MAX:
        return 0
    at = tree_take(o, size)
    if at == 0:
        return 0
    r = tree_root(o.base, at)
    memset(r, 0, sizeof(TreeRoot))
    r.id = tree_mint(o)
    r.size = <uint32_t>size
    r.refs = 1
    r.prefix_len = <uint32_t>prefix.len
    if prefix.len:
        memcpy(<uint8_t*>r + sizeof(TreeRoot), prefix.ptr, prefix.len)
    return at


cdef uint64_t tree_leaf_new(TreeOwner* o, uint32_t count, uint32_t used,
                            uint32_t slack) noexcept nogil:
    """A leaf whose entries and starts are still to be written."""
    cdef uint64_t size = sizeof(TreeNode) + 2 * <uint64_t>count + used + slack + LEAF_TAIL
    cdef uint64_t at = tree_take(o, size)
    cdef TreeNode* n
    if at == 0:
        return 0
    n = tree_node(o.base, at)
    n.id = tree_mint(o)
    n.link = 0
    n.size = <uint32_t>size
    n.used = used
    n.shared = 0
    n.count = <uint16_t>count
    n.level = 0
    n.reserved = 0
    memset(leaf_entries(n) + used, 0, LEAF_TAIL)
    return at


cdef inline uint64_t head_of(const uint8_t* p, size_t n) noexcept nogil:
    """The first 8 bytes as a big-endian number, padded with zeros."""
    cdef uint64_t x = 0
    cdef size_t i
    if n >= 8:
        return load_big(p)
    for i in range(n):
        x |= <uint64_t>p[i] << (56 - 8 * i)
    return x


cdef uint64_t tree_inner_new(TreeOwner* o, const TreePiece* pieces, uint32_t n,
                             uint8_t level) noexcept nogil:
    """An inner node over n >= 1 pieces; the first one's separator is not used."""
    cdef uint64_t size, bytes = 0, at
    cdef uint32_t i, used = 0
    cdef TreeNode* node
    cdef uint8_t* text
    for i in range(1, n):
        bytes += pieces[i].separator.len
    size = sizeof(TreeNode) + 24 * <uint64_t>n + 4 + bytes
    if size > TREE_BYTES_MAX:
        return 0
    at = tree_take(o, size)
    if at == 0:
        return 0
    node = tree_node(o.base, at)
    node.id = tree_mint(o)
    node.link = 0
    node.size = <uint32_t>size
    node.used = <uint32_t>bytes
    node.shared = 0
    node.count = <uint16_t>n
    node.level = level
    node.reserved = 0
    if n > 1:
        node.shared = <uint32_t>tree_common(pieces[1].separator, pieces[n - 1].separator)
    text = <uint8_t*>(inner_starts(node) + n + 1)
    inner_heads(node)[0] = 0
    inner_starts(node)[0] = 0
    for i in range(n):
        inner_children(node)[i] = pieces[i].child
        inner_totals(node)[i] = <uint32_t>pieces[i].total
        if i:
            memcpy(text + used, pieces[i].separator.ptr, pieces[i].separator.len)
            inner_heads(node)[i] = head_of(pieces[i].separator.ptr + node.shared,
                                           pieces[i].separator.len - node.shared)
            used += <uint32_t>pieces[i].separator.len
        inner_starts(node)[i + 1] = used
    return at


# --- search ---------------------------------------------------------------------------------

cdef uint32_t inner_find(const TreeNode* n, Span key) noexcept nogil:
    """The child that holds `key` if any does: that of the last separator <= key."""
    cdef uint32_t count = n.count, low = 1, high, middle, step
    cdef uint64_t head
    cdef const uint64_t* heads
    cdef int c
    if n.shared:
        c = memcmp(key.ptr, inner_separator(n, 1).ptr,
                   key.len if key.len < n.shared else n.shared)
        if c < 0 or (c == 0 and key.len < n.shared):
            return 0
        if c > 0:
            return count - 1
    head = head_of(key.ptr + n.shared, key.len - n.shared)
    heads = inner_heads(n)
    step = count - 1
    while step:                          # [1, low) have heads < head
        middle = step >> 1
        if heads[low + middle] < head:
            low += middle + 1
            step -= middle + 1
        else:
            step = middle
    if low == count or heads[low] != head:
        return low - 1
    high = low
    while high < count and heads[high] == head:
        high += 1
    while low < high:                    # equal heads: the bytes decide
        middle = (low + high) >> 1
        if span_compare(inner_separator(n, middle), key) <= 0:
            low = middle + 1
        else:
            high = middle
    return low - 1


cdef inline int entry_compare(const TreeNode* n, const uint8_t* entries, uint32_t i, Span key,
                              uint64_t head) noexcept nogil:
    """Entry i's key with `key`, whose head is given; LEAF_TAIL makes the load of 8 bytes safe."""
    cdef const uint8_t* p = entries + leaf_starts(n)[i]
    cdef uint64_t x
    cdef Entry e
    e.key = span(NULL, 0)
    if likely((p[0] | p[1]) < 0x80):
        e.key = span(p + 2, p[0])
        x = load_big(p + 2)
        if e.key.len < 8:
            x = x >> (64 - 8 * e.key.len) << (64 - 8 * e.key.len) if e.key.len else 0
        if x != head:
            return -1 if x < head else 1
    else:
        leaf_entry(n, i, &e)
    return span_compare(e.key, key)


cdef uint32_t leaf_find(const TreeNode* n, Span key, bint* found) noexcept nogil:
    """The first entry whose key is >= key, and whether it is equal."""
    cdef const uint8_t* entries = leaf_entries(n)
    cdef uint64_t head = head_of(key.ptr, key.len)
    cdef uint32_t low = 0, high = n.count, middle
    cdef int c
    found[0] = False
    while low < high:
        middle = (low + high) >> 1
        c = entry_compare(n, entries, middle, key, head)
        if c == 0:
            found[0] = True
            return middle
        if c < 0:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void warm(const TreeNode* n) noexcept nogil:
    """A cold leaf costs one trip to memory instead of one for each step of the search in it."""
    cdef size_t line
    for line in range(0, 1024, 64):
        prefetch(<const uint8_t*>n + line)


cdef void tree_descend(const uint8_t* base, const TreeRoot* r, Span key,
                       TreePath* p) noexcept nogil:
    cdef uint64_t at = r.top
    cdef TreeNode* n
    cdef uint32_t i
    cdef int level = <int>r.height
    p.depth = 0
    p.at = 0
    p.found = False
    p.rightmost = True
    while level > 1:
        n = tree_node(base, at)
        i = inner_find(n, key)
        p.step[p.depth].node = at
        p.step[p.depth].index = i
        p.depth += 1
        if i + 1 != n.count:
            p.rightmost = False
        at = inner_children(n)[i]
        level -= 1
    p.leaf = at
    if at:
        n = tree_node(base, at)
        warm(n)
        p.at = leaf_find(n, key, &p.found)


# --- readers --------------------------------------------------------------------------------

cdef uint64_t tree_bytes(const uint8_t* base, uint64_t root) noexcept nogil:
    cdef TreeRoot* r = tree_root(base, root)
    if r.count == 0 and r.prefix_len == 0:
        return 0
    return varint_size(r.prefix_len) + r.prefix_len + varint_size(r.count) + r.bytes


cdef int tree_find(const uint8_t* base, uint64_t root, Span key, Entry* e) noexcept nogil:
    cdef TreeRoot* r = tree_root(base, root)
    cdef TreeNode* n
    cdef uint64_t at = r.top
    cdef uint32_t i
    cdef int level = <int>r.height
    cdef bint found = False
    if at == 0:
        return MISSING
    while level > 1:
        n = tree_node(base, at)
        at = inner_children(n)[inner_find(n, key)]
        level -= 1
    n = tree_node(base, at)
    warm(n)
    i = leaf_find(n, key, &found)
    if not found:
        return MISSING
    leaf_entry(n, i, e)
    return OK


cdef uint64_t tree_rank(const uint8_t* base, uint64_t root, Span key) noexcept nogil:
    cdef TreePath p
    cdef uint64_t rank
    cdef uint32_t i
    cdef int d
    cdef TreeNode* n
    tree_descend(base, tree_root(base, root), key, &p)
    rank = p.at
    for d in range(p.depth):
        n = tree_node(base, p.step[d].node)
        for i in range(p.step[d].index):
            rank += inner_totals(n)[i]
    return rank


cdef void cursor_enter(TreeCursor* c, uint64_t at) noexcept nogil:
    """Down to the first leaf below `at`."""
    cdef TreeNode* n = tree_node(c.base, at)
    while n.level:
        c.step[c.depth].node = at
        c.step[c.depth].index = 0
        c.depth += 1
        at = inner_children(n)[0]
        n = tree_node(c.base, at)
    c.leaf = n
    c.at = 0


cdef void cursor_forward(TreeCursor* c) noexcept nogil:
    """To the next leaf, or past the end."""
    cdef TreeNode* n
    cdef TreeStep* step
    while c.depth:
        step = &c.step[c.depth - 1]
        n = tree_node(c.base, step.node)
        if step.index + 1 < n.count:
            step.index += 1
            cursor_enter(c, inner_children(n)[step.index])
            return
        c.depth -= 1
    c.leaf = NULL


cdef void tree_seek(const uint8_t* base, uint64_t root, Span key, TreeCursor* c) noexcept nogil:
    cdef TreePath p
    tree_descend(base, tree_root(base, root), key, &p)
    c.base = base
    c.depth = p.depth
    memcpy(c.step, p.step, p.depth * sizeof(TreeStep))
    c.leaf = tree_node(base, p.leaf) if p.leaf else NULL
    c.at = p.at


cdef void tree_seek_at(const uint8_t* base, uint64_t root, uint64_t index,
                       TreeCursor* c) noexcept nogil:
    cdef TreeRoot* r = tree_root(base, root)
    cdef uint64_t at = r.top
    cdef TreeNode* n
    cdef uint32_t i
    c.base = base
    c.depth = 0
    c.leaf = NULL
    c.at = 0
    if index >= r.count:
        return
    n = tree_node(base, at)
    while n.level:
        i = 0
        while index >= inner_totals(n)[i]:
            index -= inner_totals(n)[i]
            i += 1
        c.step[c.depth].node = at
        c.step[c.depth].index = i
        c.depth += 1
        at = inner_children(n)[i]
        n = tree_node(base, at)
    c.leaf = n
    c.at = <uint32_t>index


cdef bint tree_next(TreeCursor* c, Entry* e) noexcept nogil:
    while c.leaf != NULL:
        if c.at < c.leaf.count:
            leaf_entry(c.leaf, c.at, e)
            c.at += 1
            return True
        cursor_forward(c)
    return False


cdef int tree_flatten(const uint8_t* base, uint64_t root, Buf* out) noexcept nogil:
    cdef TreeRoot* r = tree_root(base, root)
    cdef TreeCursor c
    if r.count == 0 and r.prefix_len == 0:
        return out.status
    buf_reserve(out, tree_bytes(base, root))
    coll_head(out, tree_prefix(base, root), r.count)
    tree_seek_at(base, root, 0, &c)
    while c.leaf != NULL:
        buf_put(out, leaf_entries(c.leaf), c.leaf.used)
        cursor_forward(&c)
    return out.status


cdef int tree_partial(const uint8_t* base, uint64_t root, const Span* keys, size_t n,
                      Buf* out) noexcept nogil:
    cdef Span prefix = tree_prefix(base, root)
    cdef Entry e
    cdef size_t i, at, start = out.len
    cdef uint64_t count = 0
    buf_varint(out, prefix.len)
    buf_span(out, prefix)
    at = count_begin(out, n)
    for i in range(n):
        if tree_find(base, root, keys[i], &e) == OK:
            buf_put(out, e.start, <size_t>(e.next - e.start))
            count += 1
    if out.status != OK:
        return out.status
    if count == 0 and prefix.len == 0:
        out.len = start                  # the bottom is the empty span
        return OK
    count_end(out, at, n, count)
    return out.status


# --- versions -------------------------------------------------------------------------------

cdef uint64_t tree_floor(const TreeOwner* o, const TreeRoot* r) noexcept nogil:
    """Nodes of `r` with a greater id are in no older version."""
    return tree_root(o.base, r.older).last if r.older else 0


cdef void tree_retire(TreeOwner* o, TreeRoot* r, uint64_t node) noexcept nogil:
    """`node` is no longer in the version that `r` is becoming."""
    cdef TreeNode* n = tree_node(o.base, node)
    cdef TreeRoot* older
    if r.older:
        older = tree_root(o.base, r.older)
        if n.id <= older.last:
            n.link = older.retired
            older.retired = node
            return
    tree_free_node(o, node)


cdef void tree_publish(TreeOwner* o, uint64_t root) noexcept nogil:
    cdef TreeRoot* r = tree_root(o.base, root)
    if r.last == 0:
        r.last = o.next_id - 1


cdef void tree_retain(TreeOwner* o, uint64_t root) noexcept nogil:
    tree_publish(o, root)
    tree_root(o.base, root).refs += 1


cdef void free_younger(TreeOwner* o, uint64_t top, uint64_t floor) noexcept nogil:
    """Frees the nodes below and at `top` whose id is greater than `floor`: a subtree whose root
    is not has none."""
    cdef TreeStep step[TREE_HEIGHT_MAX]
    cdef int depth = 0
    cdef TreeNode* n
    cdef uint64_t child
    if top == 0 or tree_node(o.base, top).id <= floor:
        return
    step[0].node = top
    step[0].index = 0
    depth = 1
    while depth:
        n = tree_node(o.base, step[depth - 1].node)
        if n.level == 0 or step[depth - 1].index == n.count:
            depth -= 1
            tree_free_node(o, step[depth].node)
            continue
        child = inner_children(n)[step[depth - 1].index]
        step[depth - 1].index += 1
        if floor == 0 or tree_node(o.base, child).id > floor:
            step[depth].node = child
            step[depth].index = 0
            depth += 1


cdef void tree_release(TreeOwner* o, uint64_t root) noexcept nogil:
    cdef TreeRoot* r = tree_root(o.base, root)
    cdef TreeRoot* older = tree_root(o.base, r.older) if r.older else NULL
    cdef uint64_t node, link
    r.refs -= 1
    if r.refs:
        return
    if r.newer == 0:
        free_younger(o, r.top, tree_floor(o, r))
        if older != NULL:                # what it had lost is in the newest version again
            older.retired = 0
            older.newer = 0
    else:
        node = r.retired
        while node:
            link = tree_node(o.base, node).link
            if older != NULL and tree_node(o.base, node).id <= older.last:
                tree_node(o.base, node).link = older.retired
                older.retired = node
            else:
                tree_free_node(o, node)
            node = link
        tree_root(o.base, r.newer).older = r.older
        if older != NULL:
            older.newer = r.newer
    give(o, root, r.size)


cdef int tree_begin(TreeOwner* o, uint64_t* root, Span prefix) noexcept nogil:
    """*root becomes a version that may be changed, with that prefix (which may be its own)."""
    cdef TreeRoot* old = tree_root(o.base, root[0])
    cdef TreeRoot* r
    cdef uint64_t at
    if old.last and old.newer:
        return BAD_OPERATION
    if old.count and varint_size(prefix.len) + prefix.len + 10 + old.bytes > TREE_BYTES_MAX:
        return OVER_LIMIT
    if old.last == 0 and old.size - sizeof(TreeRoot) >= prefix.len:
        if prefix.len:
            memmove(<uint8_t*>old + sizeof(TreeRoot), prefix.ptr, prefix.len)
        old.prefix_len = <uint32_t>prefix.len
        return OK
    if prefix.len > TREE_BYTES_MAX // 2:
        return OVER_LIMIT
    at = tree_root_new(o, prefix)
    if at == 0:
        return NO_MEMORY
    r = tree_root(o.base, at)
    r.top = old.top
    r.height = old.height
    r.count = old.count
    r.bytes = old.bytes
    if old.last:
        r.older = root[0]
        old.newer = at
    else:                                # it only moves
        r.refs = old.refs
        r.older = old.older
        if r.older:
            tree_root(o.base, r.older).newer = at
        give(o, root[0], old.size)
    root[0] = at
    return OK


