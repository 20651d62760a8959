"""One change of a path-copied tree, and a batch of them; tree_change.pxd says what is promised.

A change of one entry is one `Change`: descend, write the leaf's replacement (one to three leaves,
or none), then climb: a parent of which one child was replaced by one is copied, or, if it belongs
to the version being built, set in place; otherwise its list of children is written anew, as one
node or two. New nodes are noted in `made`, replaced ones in `gone`; an allocation that fails frees
the former and leaves the tree as it was, a success retires the latter.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from annapy._core.codec cimport (
    CORRUPT, MISSING, NO_MEMORY, OK, OVER_LIMIT, Span, span, span_compare, span_equal, varint_size,
    varint_store,
)
from annapy._core.joins_set cimport Coll, Entry, coll_next, coll_open
from annapy._core.tree cimport (
    INNER_BYTES_MAX, INNER_LIMIT, INNER_MAX, INNER_MIN, LEAF_MAX, LEAF_MIN, LEAF_TAIL,
    TREE_BYTES_MAX, TREE_HEIGHT_MAX, TreeNode, TreeOwner, TreePath, TreePiece, TreeRoot, TreeStep,
    inner_children, inner_separator, inner_totals, leaf_entries, leaf_entry, leaf_start,
    leaf_starts, tree_begin, tree_common, tree_descend, tree_find, tree_floor, tree_free_node,
    tree_inner_new, tree_leaf_new, tree_mint, tree_node, tree_prefix, tree_release, tree_retire,
    tree_root, tree_take,
)

__all__: list = []

cdef enum:
    CHANGED_MAX = 4 * TREE_HEIGHT_MAX    # new or replaced nodes of one change


cdef struct Change:
    TreeOwner* o
    TreeRoot* root
    uint64_t floor
    bint shrunk                  # look for neighbours to join
    int made_n
    int gone_n
    TreePath path
    uint64_t made[CHANGED_MAX]
    uint64_t gone[CHANGED_MAX]


cdef struct Pieces:              # what takes the place of one child, or of two neighbours
    TreePiece piece[3]
    uint32_t n


cdef inline bint made(Change* c, uint64_t node) noexcept nogil:
    if node:
        c.made[c.made_n] = node
        c.made_n += 1
    return node != 0


cdef void undo(Change* c) noexcept nogil:
    while c.made_n:
        c.made_n -= 1
        tree_free_node(c.o, c.made[c.made_n])


cdef void discard(Change* c, uint64_t node) noexcept nogil:
    """It is replaced: freed at once if this very change made it, else when the change is done."""
    cdef int i
    for i in range(c.made_n):
        if c.made[i] == node:
            c.made_n -= 1
            c.made[i] = c.made[c.made_n]
            tree_free_node(c.o, node)
            return
    c.gone[c.gone_n] = node
    c.gone_n += 1


cdef struct Edit:                # a leaf's entries with those in [at, end) replaced by `key`'s
    const TreeNode* n
    uint32_t at
    uint32_t end
    bint put
    Span key
    Span payload
    uint32_t size                # of the new entry, 0: none
    uint32_t count               # entries after the edit


cdef inline uint32_t edit_bytes(const Edit* e, uint32_t first, uint32_t last) noexcept nogil:
    """Bytes of entries [first, last) after the edit."""
    cdef uint32_t bytes = 0
    cdef uint32_t skip = e.end - e.at, put = e.put
    cdef uint32_t a = first if first < e.at else e.at
    cdef uint32_t b = last if last < e.at else e.at
    bytes = leaf_start(e.n, b) - leaf_start(e.n, a)
    if put and first <= e.at < last:
        bytes += e.size
    a = first if first > e.at + put else e.at + put
    b = last if last > e.at + put else e.at + put
    if a < b:
        bytes += leaf_start(e.n, b - put + skip) - leaf_start(e.n, a - put + skip)
    return bytes


cdef inline void entry_write(uint8_t* to, Span key, Span payload) noexcept nogil:
    to = varint_store(to, key.len)
    to = varint_store(to, payload.len)
    if key.len:
        memcpy(to, key.ptr, key.len)
    if payload.len:
        memcpy(to + key.len, payload.ptr, payload.len)


cdef void copy_entries(TreeNode* to, uint32_t at, uint32_t start, const TreeNode* n, uint32_t a,
                       uint32_t b) noexcept nogil:
    """Entries [a, b) of n become those from number `at` on, at byte `start`."""
    cdef uint32_t i, from_ = leaf_start(n, a)
    cdef uint16_t shift = <uint16_t>(start - from_)
    cdef const uint16_t* source = leaf_starts(n) + a
    cdef uint16_t* starts = leaf_starts(to) + at
    for i in range(b - a):
        starts[i] = <uint16_t>(source[i] + shift)
    memcpy(leaf_entries(to) + start, leaf_entries(n) + from_, leaf_start(n, b) - from_)


cdef uint64_t edit_write(Change* c, const Edit* e, uint32_t first, uint32_t last,
                         uint32_t slack) noexcept nogil:
    """A leaf of the entries [first, last) after the edit."""
    cdef uint32_t skip = e.end - e.at, put = e.put, n = 0, start = 0, a, b
    cdef uint64_t at = tree_leaf_new(c.o, last - first, edit_bytes(e, first, last), slack)
    cdef TreeNode* to
    if not made(c, at):
        return 0
    to = tree_node(c.o.base, at)
    if first < e.at:
        b = last if last < e.at else e.at
        copy_entries(to, 0, 0, e.n, first, b)
        n = b - first
        start = leaf_start(e.n, b) - leaf_start(e.n, first)
    if put and first <= e.at < last:
        leaf_starts(to)[n] = <uint16_t>start
        entry_write(leaf_entries(to) + start, e.key, e.payload)
        n += 1
        start += e.size
    if last > e.at + put:
        a = first if first > e.at + put else e.at + put
        copy_entries(to, n, start, e.n, a - put + skip, last - put + skip)
    return at


cdef Span edit_key(const Edit* e, uint32_t i) noexcept nogil:
    """The key of entry i after the edit."""
    cdef Entry entry
    if e.put and i == e.at:
        return e.key
    leaf_entry(e.n, i if i < e.at else i - e.put + (e.end - e.at), &entry)
    return entry.key


cdef uint32_t edit_cut(const Edit* e, bint rightmost, uint32_t* second) noexcept nogil:
    """Where to cut what does not fit one leaf: the first cut, and a second one or `count`."""
    cdef uint32_t total = edit_bytes(e, 0, e.count), left = 0, best = 0, cut = 1, i, larger
    second[0] = e.count
    if e.put and rightmost and 0 < e.at and e.at + 1 == e.count:
        return e.at                      # keys that come in order leave full leaves behind
    for i in range(1, e.count):
        left += edit_bytes(e, i - 1, i)
        larger = left if left > total - left else total - left
        if best == 0 or larger < best:
            best = larger
            cut = i
    left = edit_bytes(e, 0, cut)
    if e.put and ((left > LEAF_MAX and cut > 1)
                  or (total - left > LEAF_MAX and e.count - cut > 1)):
        if e.at == 0:
            return 1
        second[0] = e.at + 1             # the new entry alone, between what was on its sides
        return e.at
    return cut


cdef int edit_split(Change* c, const Edit* e, Pieces* out) noexcept nogil:
    cdef uint32_t cut[4]
    cdef uint32_t i
    cdef Span low, high
    cut[0] = 0
    cut[1] = edit_cut(e, c.path.rightmost, &cut[2])
    cut[3] = e.count
    out.n = 3 if cut[2] < e.count else 2
    for i in range(out.n):
        out.piece[i].child = edit_write(c, e, cut[i], cut[i + 1], 0)
        if out.piece[i].child == 0:
            return NO_MEMORY
        out.piece[i].total = cut[i + 1] - cut[i]
        out.piece[i].separator = span(NULL, 0)
        if i:
            low = edit_key(e, cut[i] - 1)
            high = edit_key(e, cut[i])
            out.piece[i].separator = span(high.ptr, tree_common(low, high) + 1)
    return OK


cdef bint edit_in_place(Change* c, Edit* e, uint32_t used) noexcept nogil:
    """The leaf belongs to the version being built and has room: no copy."""
    cdef TreeNode* n = <TreeNode*>e.n
    cdef uint32_t skip = e.end - e.at, put = e.put, i, old_used = n.used
    cdef uint32_t a = leaf_start(n, e.at), b = leaf_start(n, e.end)
    cdef uint16_t shift = <uint16_t>(e.size - (b - a))
    cdef uint8_t* entries = leaf_entries(n)
    cdef uint8_t* moved = <uint8_t*>(leaf_starts(n) + e.count)
    cdef uint16_t* starts = leaf_starts(n)
    if (n.id <= c.floor or (c.shrunk and used < LEAF_MIN)
            or sizeof(TreeNode) + 2 * e.count + used + LEAF_TAIL > n.size):
        return False
    if put < skip:                       # starts that the entries' move will cover come first
        for i in range(e.end, n.count):
            starts[i - 1] = <uint16_t>(starts[i] + shift)
    if moved <= entries:                 # the move that goes down first
        memmove(moved, entries, a)
        memmove(moved + a + e.size, entries + b, old_used - b)
    else:
        memmove(moved + a + e.size, entries + b, old_used - b)
        memmove(moved, entries, a)
    if put > skip:
        for i in range(n.count, e.end, -1):
            starts[i] = <uint16_t>(starts[i - 1] + shift)
        starts[e.at] = <uint16_t>a
    elif put == skip:
        for i in range(e.end, n.count):
            starts[i] = <uint16_t>(starts[i] + shift)
    if put:
        entry_write(moved + a, e.key, e.payload)
    n.count = <uint16_t>e.count
    n.used = used
    memset(moved + used, 0, LEAF_TAIL)
    return True


# --- the climb ------------------------------------------------------------------------------

cdef uint32_t gather(const TreeNode* n, uint32_t a, uint32_t b, TreePiece* out) noexcept nogil:
    """Children [a, b) as pieces; returns how many."""
    cdef uint32_t i
    for i in range(a, b):
        out[i - a].child = inner_children(n)[i]
        out[i - a].total = inner_totals(n)[i]
        out[i - a].separator = inner_separator(n, i)
    return b - a if b > a else 0


cdef uint64_t join_leaves(Change* c, const TreeNode* a, const TreeNode* b) noexcept nogil:
    cdef uint64_t at
    cdef TreeNode* to
    if a.used + b.used > LEAF_MAX - LEAF_MIN:
        return 0
    at = tree_leaf_new(c.o, a.count + b.count, a.used + b.used, 0)
    if made(c, at):
        to = tree_node(c.o.base, at)
        copy_entries(to, 0, 0, a, 0, a.count)
        copy_entries(to, a.count, a.used, b, 0, b.count)
    return at


cdef uint64_t join_inner(Change* c, const TreeNode* a, const TreeNode* b,
                         Span separator) noexcept nogil:
    cdef TreePiece all[INNER_MAX]
    cdef uint32_t n
    cdef uint64_t at
    if a.count + b.count > INNER_MAX - INNER_MIN or a.used + b.used > INNER_BYTES_MAX // 2:
        return 0
    n = gather(a, 0, a.count, all)
    gather(b, 0, b.count, all + n)
    all[n].separator = separator
    at = tree_inner_new(c.o, all, n + b.count, a.level)
    made(c, at)
    return at


cdef void join_neighbour(Change* c, const TreeNode* parent, uint32_t* low, uint32_t* high,
                         Pieces* p) noexcept nogil:
    """If the only piece has become small and fits together with a neighbour, both become one. That
    there is no memory for it is no failure."""
    cdef TreeNode* n = tree_node(c.o.base, p.piece[0].child)
    cdef uint32_t side, left
    cdef uint64_t joined, other
    cdef TreeNode* a
    cdef TreeNode* b
    if n.used >= LEAF_MIN if n.level == 0 else n.count >= INNER_MIN:
        return
    for side in range(2):                # the right one first
        if low[0] + 1 >= parent.count if side == 0 else low[0] == 0:
            continue
        left = low[0] - side
        other = inner_children(parent)[left + 1 - side]
        a = n if side == 0 else tree_node(c.o.base, other)
        b = tree_node(c.o.base, other) if side == 0 else n
        if n.level == 0:
            joined = join_leaves(c, a, b)
        else:
            joined = join_inner(c, a, b, inner_separator(parent, left + 1))
        if joined == 0:
            continue
        discard(c, p.piece[0].child)
        discard(c, other)
        p.piece[0].child = joined
        p.piece[0].total += inner_totals(parent)[left + 1 - side]
        low[0] = left
        high[0] = left + 2
        return


cdef uint64_t copy_inner(Change* c, const TreeNode* n, uint32_t i,
                         const TreePiece* p) noexcept nogil:
    """The same node with child i replaced."""
    cdef uint64_t at = tree_take(c.o, n.size)
    cdef TreeNode* to
    if not made(c, at):
        return 0
    to = tree_node(c.o.base, at)
    memcpy(to, n, n.size)
    to.id = tree_mint(c.o)
    to.link = 0
    inner_children(to)[i] = p.child
    inner_totals(to)[i] = <uint32_t>p.total
    return at


cdef int rebuild(Change* c, const TreeNode* n, uint32_t low, uint32_t high,
                 Pieces* p) noexcept nogil:
    """The node with children [low, high) replaced by the pieces; *p becomes what replaces it."""
    cdef TreePiece all[INNER_LIMIT + 3]
    cdef uint32_t count, i, cut
    cdef uint64_t bytes = 0
    cdef Span separator = inner_separator(n, low)
    count = gather(n, 0, low, all)
    for i in range(p.n):
        all[count] = p.piece[i]
        if i == 0:
            all[count].separator = separator
        count += 1
    count += gather(n, high, n.count, all + count)
    for i in range(1, count):
        bytes += all[i].separator.len
    p.n = 0
    if count == 0:
        return OK
    cut = count
    if count > INNER_MAX or (bytes > INNER_BYTES_MAX and count >= 4):
        cut = count // 2
        if c.path.rightmost and not c.shrunk and high == n.count:
            cut = count - count // 8 if count >= 16 else cut
    p.n = 1 if cut == count else 2
    p.piece[0].separator = separator     # the parent has its own
    p.piece[1].separator = all[cut].separator if cut < count else separator
    for i in range(p.n):
        low = cut * i
        high = count if i + 1 == p.n else cut
        p.piece[i].child = tree_inner_new(c.o, all + low, high - low, n.level)
        p.piece[i].total = 0
        if not made(c, p.piece[i].child):
            return NO_MEMORY
        while low < high:
            p.piece[i].total += all[low].total
            low += 1
    return OK


cdef inline uint64_t known_total(Change* c, int d) noexcept nogil:
    """Entries below step d's node before the change, as its parent knows; the top has no parent."""
    cdef TreeStep* step
    if d == 0:
        return 0
    step = &c.path.step[d - 1]
    return inner_totals(tree_node(c.o.base, step.node))[step.index]


cdef int climb(Change* c, Pieces* p, int delta) noexcept nogil:
    """The leaf becomes the pieces; every node above it follows. `delta`: entries more or less."""
    cdef int d = c.path.depth, above
    cdef TreeStep* step
    cdef TreeNode* n
    cdef uint32_t low, high
    cdef int status
    while d:
        d -= 1
        step = &c.path.step[d]
        n = tree_node(c.o.base, step.node)
        low = step.index
        high = low + 1
        if p.n == 1 and c.shrunk and n.count > 1:
            join_neighbour(c, n, &low, &high, p)
        if p.n == 1 and high - low == 1:
            if n.id > c.floor:           # and so are all above
                inner_children(n)[low] = p.piece[0].child
                for above in range(d + 1):
                    step = &c.path.step[above]
                    n = tree_node(c.o.base, step.node)
                    inner_totals(n)[step.index] = <uint32_t>(
                        <int64_t>inner_totals(n)[step.index] + delta)
                return OK
            p.piece[0].child = copy_inner(c, n, low, &p.piece[0])
            if p.piece[0].child == 0:
                return NO_MEMORY
            p.piece[0].total = known_total(c, d) + <uint64_t><int64_t>delta
        else:
            status = rebuild(c, n, low, high, p)
            if status != OK:
                return status
        discard(c, step.node)
    return set_top(c, p)


cdef int set_top(Change* c, Pieces* p) noexcept nogil:
    cdef TreeRoot* r = c.root
    cdef TreeNode* n
    cdef uint64_t top, child
    if p.n > 1:
        if r.height + 1 >= TREE_HEIGHT_MAX:
            return OVER_LIMIT
        top = tree_inner_new(c.o, p.piece, p.n, <uint8_t>(r.height if r.height else 1))
        if not made(c, top):
            return NO_MEMORY
        r.height = (r.height if r.height else 1) + 1
        r.top = top
        return OK
    if p.n == 0:
        r.top = 0
        r.height = 0
        return OK
    top = p.piece[0].child
    if r.height == 0:
        r.height = 1
    n = tree_node(c.o.base, top)
    while n.level and n.count == 1:
        child = inner_children(n)[0]
        discard(c, top)
        top = child
        n = tree_node(c.o.base, top)
        r.height -= 1
    r.top = top
    return OK


cdef TreeNode NO_ENTRIES
memset(&NO_ENTRIES, 0, sizeof(TreeNode))


cdef int change(TreeOwner* o, uint64_t root, bint put, Span key, Span payload) noexcept nogil:
    """Puts or removes one entry of a version that is not published. OK, or nothing is changed."""
    cdef Change c
    cdef Edit e
    cdef Pieces p
    cdef Entry old
    cdef uint32_t used, old_size = 0
    cdef uint64_t size = 0
    cdef int status = OK, i
    c.o = o
    c.root = tree_root(o.base, root)
    c.floor = tree_floor(o, c.root)
    c.made_n = 0
    c.gone_n = 0
    tree_descend(o.base, c.root, key, &c.path)
    e.n = tree_node(o.base, c.path.leaf) if c.path.leaf else &NO_ENTRIES
    if c.path.found:
        leaf_entry(e.n, c.path.at, &old)
        old_size = <uint32_t>(old.next - old.start)
        if put and span_equal(old.payload, payload):
            return OK
    elif not put:
        return MISSING
    if put:
        size = varint_size(key.len) + varint_size(payload.len) + key.len + payload.len
        if size > TREE_BYTES_MAX or c.root.bytes + c.root.prefix_len + size > TREE_BYTES_MAX:
            return OVER_LIMIT
    e.at = c.path.at
    e.end = c.path.at + c.path.found
    e.put = put
    e.key = key
    e.payload = payload
    e.size = <uint32_t>size
    e.count = e.n.count - c.path.found + put
    used = e.n.used - old_size + e.size
    c.shrunk = size < old_size
    p.n = 0
    if e.count and used > LEAF_MAX and e.count > 1:
        status = edit_split(&c, &e, &p)
    elif e.count:
        p.n = 1
        p.piece[0].child = c.path.leaf
        p.piece[0].total = e.count
        if not (c.path.leaf and edit_in_place(&c, &e, used)):
            p.piece[0].child = edit_write(
                &c, &e, 0, e.count, used // 4 if e.n.id > c.floor and c.path.leaf else 0)
            status = OK if p.piece[0].child else NO_MEMORY
    if status == OK:
        if c.path.leaf and (p.n != 1 or p.piece[0].child != c.path.leaf):
            discard(&c, c.path.leaf)
        status = climb(&c, &p, <int>put - <int>c.path.found)
    if status != OK:
        undo(&c)
        return status
    c.root.count = c.root.count + put - c.path.found
    c.root.bytes = c.root.bytes + size - old_size
    for i in range(c.gone_n):
        tree_retire(o, c.root, c.gone[i])
    return OK


cdef int changed(TreeOwner* o, uint64_t* root, bint put, Span key, Span payload) noexcept nogil:
    """One change, as a version of its own if the root is published."""
    cdef uint64_t at = root[0]
    cdef int status = tree_begin(o, &at, tree_prefix(o.base, at))
    if status != OK:
        return status
    status = change(o, at, put, key, payload)
    if status != OK and at != root[0]:
        tree_release(o, at)
        return status
    root[0] = at
    return status


cdef int tree_upsert(TreeOwner* o, uint64_t* root, Span key, Span payload) noexcept nogil:
    return changed(o, root, True, key, payload)


cdef int tree_remove(TreeOwner* o, uint64_t* root, Span key) noexcept nogil:
    cdef Entry e
    if tree_find(o.base, root[0], key, &e) != OK:
        return MISSING
    return changed(o, root, False, key, span(NULL, 0))


cdef int tree_replace_prefix(TreeOwner* o, uint64_t* root, Span prefix) noexcept nogil:
    return tree_begin(o, root, prefix)


cdef int apply_entries(TreeOwner* o, uint64_t root, Coll* partial, const Span* keys,
                       size_t n) noexcept nogil:
    cdef Entry e
    cdef size_t i = 0
    cdef int status = OK, order
    cdef bint has = partial.entries.at < partial.entries.end
    if has and coll_next(&partial.entries, &e) != OK:
        return CORRUPT
    while has or i < n:
        order = -1 if i == n else 1 if not has else span_compare(e.key, keys[i])
        if order <= 0:
            status = change(o, root, True, e.key, e.payload)
        else:
            status = change(o, root, False, keys[i], span(NULL, 0))
            status = OK if status == MISSING else status
        if status != OK:
            return status
        if order >= 0:
            i += 1
        if order <= 0:
            has = partial.entries.at < partial.entries.end
            if has and coll_next(&partial.entries, &e) != OK:
                return CORRUPT
    return OK


cdef int tree_apply_partial(TreeOwner* o, uint64_t* root, Span partial, const Span* keys,
                            size_t n) noexcept nogil:
    cdef Coll c
    cdef uint64_t at = root[0]
    cdef bint published = tree_root(o.base, at).last != 0
    cdef int status
    if coll_open(partial, &c) != OK:
        return CORRUPT
    status = tree_begin(o, &at, c.prefix)
    if status == OK:
        status = apply_entries(o, at, &c, keys, n)
        if status != OK and published:
            tree_release(o, at)
            return status
        root[0] = at
    return status


