# cython: language_level=3
"""Trees from and to bytes: the flat form, and nodes one by one for a store that keeps them apart.

Owns    the persistent form of nodes. Ids are the nodes' own, so that a commit writes the nodes that
        are newer than the last one's and deletes those that died since; a node never changes under
        its id. A key's tree has ids of its own: store a node under (key, id).

    record  id u64 · varint length · node
    node    u8 0 · varint count · entries                                              a leaf
            u8 1 · u8 level · varint n · id of child u64 {n} · separator, counted {n - 1}   inner
            u8 2 · u8 height · varint count · varint bytes · id of top u64 · prefix     a root

Invariants
    an import accepts exactly one root and the nodes below it, in any order, each used once; its
    keys strictly ascend and respect the separators; counts and sizes are those of the root
    nothing is allocated that the records do not bring
"""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.codec cimport Buf, Span
from annapy._core.tree cimport TreeOwner

cdef int tree_build(TreeOwner* o, Span flat, uint64_t* root) noexcept nogil
# A new tree, not published. OK, CORRUPT (framing or order), NO_MEMORY, OVER_LIMIT.
cdef int tree_new_nodes(const uint8_t* base, uint64_t root, uint64_t since, Buf* out) noexcept nogil
# Appends the records of the root and of the nodes with an id > `since`, parents first. `since` is
# the `last` of an earlier version of the same tree, or 0: all. Costs what is written. Any reader.
cdef int tree_dead_nodes(const uint8_t* base, uint64_t old, uint64_t root, Buf* out) noexcept nogil
# Appends the ids (u64) of the nodes and the root of `old` that `root` has not. `old` must be held
# (tree_retain) since it was the newest; only the owner may ask. Where `root` is no later version of
# `old` but a tree of its own: all of old's.
cdef int tree_import(TreeOwner* o, Span records, uint64_t* root) noexcept nogil
# The tree of these records, published. The owner's next_id is raised past its ids. OK, CORRUPT,
# NO_MEMORY.
