# cython: language_level=3
"""Large collections: path-copied B+trees over memory addressed by offset.

Owns    the layout of roots, inner nodes and leaves, and who frees them. One owner (of the shard)
        writes; any number of readers, in any process, hold nothing but a root that is pinned.
Callers tree_find, tree_flatten, cursors and all that take a `base`: readers. All that take a
        TreeOwner: only the owner. tree_change.pyx changes entries, tree_chunks.pyx builds, exports
        and imports, collection.pyx applies operations.

    root      96   TreeRoot, then the prefix (a causal context, or nothing): one version of one tree
    leaf      32   TreeNode · u16 start[count] · entries, framed and ordered as in the flat form
    inner     32   TreeNode · u64 child[count] · u64 head[count] · u32 total[count]
                   · u32 start[count + 1] · separators

    separator i (1 <= i < count): every key below child i is >= it, every key below child i - 1 is
    less; the shortest such string. Separator 0 is empty and stands for "the least".
    head i: the 8 bytes of separator i that follow what all separators share, big-endian, padded
    with zeros: a search compares numbers and looks at the bytes only where those are equal.
    total i: entries below child i, so that the n-th entry is found as fast as a key.

Invariants
    keys strictly ascend through all leaves; no leaf is empty; all leaves are equally deep
    the entries of all leaves, one after the other, are the entries of the flat form
    a leaf holds at most LEAF_LIMIT bytes of entries, or one entry of any size
    whatever a published root reaches is never written again, but for the owner's own words (link,
    refs, older, newer, retired, last), which no reader looks at
    id of a node > ids of all nodes that its tree had before: minted by the owner, never used twice
    in one tree; a node of the version being built has an id > older.last, and so have its parents

Who frees what. The versions of a tree form a list, `older` to `newer`. A node that is in version v
and no longer in the next one stands in v's `retired` list. When v is released, a retired node that
is younger than the next older living version (id > older.last) is in no living version and is
freed; the others move to that older version's list. The newest version's nodes are freed by a walk
that stops where nodes belong to an older one. No node needs a count of the versions that share it:
copying an inner node touches the node and none of its children. Source: the dead lists of ZFS
snapshots (Ahrens 2005); path copying: Driscoll, Sarnak, Sleator, Tarjan 1989; separators: prefix
B-trees, Bayer and Unterauer 1977.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from annapy._core.arena cimport Heap
from annapy._core.codec cimport Buf, Cursor, Span
from annapy._core.joins_set cimport Entry, coll_next

cdef enum:
    TREE_FROM = 16384            # bytes of a flat state from which on it is a tree
    TREE_UNTIL = 8192            # a tree that has shrunk below it becomes flat again
    LEAF_MAX = 1536              # bytes of entries a leaf is split at
    LEAF_MIN = 384               # below it, a leaf is joined to a neighbour if both fit one
    LEAF_LIMIT = 0xF000          # what an imported leaf of several entries may hold
    LEAF_TAIL = 8                # zeros after the entries, so that 8 bytes of a key can be loaded
    INNER_MAX = 64               # children an inner node is split at
    INNER_MIN = 16
    INNER_LIMIT = 256            # what an imported inner node may hold
    INNER_BYTES_MAX = 8192       # split earlier where separators are long
    TREE_HEIGHT_MAX = 40
    TREE_BYTES_MAX = 0x3FFFFC00  # of the flat form: a cell holds it

cdef struct TreeRoot:
    uint64_t id
    uint64_t top                 # node, 0: no entries
    uint64_t count               # entries
    uint64_t bytes               # of all entries
    uint32_t size                # of the slab, as asked for
    uint32_t prefix_len
    uint32_t height              # levels of nodes, 0: no entries
    # the owner's words
    uint32_t refs
    uint64_t older               # the versions before and after this one that live, or 0
    uint64_t newer
    uint64_t retired             # nodes of this version that the next one has not, by `link`
    uint64_t last                # the greatest id of this version; 0: not published, still changing
    uint64_t reserved[2]

cdef struct TreeNode:
    uint64_t id
    uint64_t link                # the owner's word
    uint32_t size                # of the slab, as asked for
    uint32_t used                # bytes of entries, or of separators
    uint32_t shared              # inner: leading bytes that all separators share
    uint16_t count               # entries, or children
    uint8_t level                # 0: leaf
    uint8_t reserved

ctypedef uint64_t (*tree_alloc_fn)(void* heap, uint64_t size) noexcept nogil
ctypedef void (*tree_free_fn)(void* heap, uint64_t offset, uint64_t size) noexcept nogil

cdef struct TreeOwner:           # owner-private, one a shard
    uint8_t* base
    void* heap
    tree_alloc_fn alloc
    tree_free_fn free
    uint64_t next_id             # > 0
    uint64_t slabs               # roots and nodes that live

cdef struct TreeStep:
    uint64_t node
    uint32_t index

cdef struct TreeCursor:          # the caller keeps the root pinned as long as it walks
    const uint8_t* base
    TreeStep step[TREE_HEIGHT_MAX]
    int depth
    const TreeNode* leaf         # NULL: past the end
    uint32_t at                  # next entry of the leaf


cdef inline TreeRoot* tree_root(const uint8_t* base, uint64_t root) noexcept nogil:
    return <TreeRoot*>(<uint64_t>base + root)

cdef inline TreeNode* tree_node(const uint8_t* base, uint64_t node) noexcept nogil:
    return <TreeNode*>(<uint64_t>base + node)

cdef inline uint16_t* leaf_starts(const TreeNode* n) noexcept nogil:
    return <uint16_t*>(<uint8_t*>n + sizeof(TreeNode))

cdef inline uint8_t* leaf_entries(const TreeNode* n) noexcept nogil:
    return <uint8_t*>(leaf_starts(n) + n.count)

cdef inline uint32_t leaf_start(const TreeNode* n, uint32_t i) noexcept nogil:
    """Where entry i begins; for i = count, where the last one ends."""
    return leaf_starts(n)[i] if i < n.count else n.used

cdef inline uint64_t* inner_children(const TreeNode* n) noexcept nogil:
    return <uint64_t*>(<uint8_t*>n + sizeof(TreeNode))

cdef inline uint64_t* inner_heads(const TreeNode* n) noexcept nogil:
    return inner_children(n) + n.count

cdef inline uint32_t* inner_totals(const TreeNode* n) noexcept nogil:
    return <uint32_t*>(inner_heads(n) + n.count)

cdef inline uint32_t* inner_starts(const TreeNode* n) noexcept nogil:
    return inner_totals(n) + n.count

cdef inline Span inner_separator(const TreeNode* n, uint32_t i) noexcept nogil:
    cdef const uint32_t* start = inner_starts(n)
    cdef Span s
    s.ptr = <const uint8_t*>(start + n.count + 1) + start[i]
    s.len = start[i + 1] - start[i]
    return s

cdef inline uint64_t tree_count(const uint8_t* base, uint64_t root) noexcept nogil:
    return tree_root(base, root).count

cdef inline Span tree_prefix(const uint8_t* base, uint64_t root) noexcept nogil:
    cdef TreeRoot* r = tree_root(base, root)
    cdef Span s
    s.ptr = <uint8_t*>r + sizeof(TreeRoot)
    s.len = r.prefix_len
    return s

# --- readers: the root is pinned or the caller is the owner -----------------------------------

cdef uint64_t tree_bytes(const uint8_t* base, uint64_t root) noexcept nogil
# Length of the flat form.
cdef int tree_find(const uint8_t* base, uint64_t root, Span key, Entry* e) noexcept nogil
# OK and the entry, borrowed from its leaf, or MISSING. O(log n).
cdef uint64_t tree_rank(const uint8_t* base, uint64_t root, Span key) noexcept nogil
# How many keys are less than `key`.
cdef int tree_flatten(const uint8_t* base, uint64_t root, Buf* out) noexcept nogil
# Appends the flat form, byte for byte what the lattice's own join would give.
cdef int tree_partial(const uint8_t* base, uint64_t root, const Span* keys, size_t n,
                      Buf* out) noexcept nogil
# Appends the flat state of the prefix and those of the `keys` (ascending, unique) that are there.
cdef void tree_seek(const uint8_t* base, uint64_t root, Span key, TreeCursor* c) noexcept nogil
# Before the first entry whose key is >= `key`.
cdef void tree_seek_at(const uint8_t* base, uint64_t root, uint64_t index,
                       TreeCursor* c) noexcept nogil
# Before the entry with that number; at the end for index >= count.
cdef bint tree_next(TreeCursor* c, Entry* e) noexcept nogil
# The next entry, or False at the end.

# --- the owner --------------------------------------------------------------------------------
# Building is tree_chunks.pyx's, changing is tree_change.pyx's.

cdef void tree_owner_init(TreeOwner* o, Heap* heap) noexcept nogil
# next_id starts at 1; a caller that persists nodes sets it past every id that it has stored.
cdef void tree_publish(TreeOwner* o, uint64_t root) noexcept nogil
# From now on `root` never changes. Do it before a reader can see it.
cdef void tree_retain(TreeOwner* o, uint64_t root) noexcept nogil
# One more release is needed. Publishes.
cdef void tree_release(TreeOwner* o, uint64_t root) noexcept nogil
# The last one frees what no other version has. Costs the difference, not the size; dropping the
# only version costs its size. Releasing a version that is not published takes its changes back.

# --- shared with tree_change.pyx and tree_chunks.pyx ------------------------------------------

cdef struct TreePiece:           # a child and what its parent has to know of it
    uint64_t child
    uint64_t total
    Span separator

cdef struct TreePath:
    TreeStep step[TREE_HEIGHT_MAX]
    int depth                    # inner nodes above the leaf
    uint64_t leaf                # 0: no entries
    uint32_t at                  # in the leaf: first entry >= key
    bint found
    bint rightmost               # no leaf follows

cdef void tree_descend(const uint8_t* base, const TreeRoot* r, Span key,
                       TreePath* p) noexcept nogil
cdef uint64_t tree_take(TreeOwner* o, uint64_t size) noexcept nogil
cdef uint64_t tree_mint(TreeOwner* o) noexcept nogil
cdef uint64_t tree_root_new(TreeOwner* o, Span prefix) noexcept nogil
cdef uint64_t tree_leaf_new(TreeOwner* o, uint32_t count, uint32_t used,
                            uint32_t slack) noexcept nogil
# Entries and starts are still to be written.
cdef uint64_t tree_inner_new(TreeOwner* o, const TreePiece* pieces, uint32_t n,
                             uint8_t level) noexcept nogil
# n >= 1; the first one's separator is not used.
cdef void tree_free_node(TreeOwner* o, uint64_t node) noexcept nogil
cdef uint64_t tree_floor(const TreeOwner* o, const TreeRoot* r) noexcept nogil
# Nodes of `r` with a greater id are in no older version.
cdef void tree_retire(TreeOwner* o, TreeRoot* r, uint64_t node) noexcept nogil
# `node` is no longer in the version that `r` is becoming.
cdef int tree_begin(TreeOwner* o, uint64_t* root, Span prefix) noexcept nogil
# *root becomes a version that may be changed, with that prefix (which may be its own).

cdef inline size_t tree_common(Span a, Span b) noexcept nogil:
    """Leading bytes that both have."""
    cdef size_t n = a.len if a.len < b.len else b.len
    cdef size_t i = 0
    while i < n and a.ptr[i] == b.ptr[i]:
        i += 1
    return i

cdef inline void leaf_entry(const TreeNode* n, uint32_t i, Entry* e) noexcept nogil:
    cdef const uint8_t* entries = leaf_entries(n)
    cdef Cursor c
    c.at = entries + leaf_start(n, i)
    c.end = entries + n.used
    coll_next(&c, e)
