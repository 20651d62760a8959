# cython: language_level=3
"""Changes of path-copied trees, entry by entry; tree.pxd has the layout and the invariants.

Callers the owner of the tree only.

A change of a published root makes a new version and leaves the old one as it is; a change of one
that is not published changes it, so that several changes copy each node once. *root is set to
the root that has the change; the old one still has to be released if it was published.
BAD_OPERATION: that root has a newer version already. On failure *root is unchanged, and so is its
tree, except that tree_apply_partial on an unpublished root may have done a part of its work.
"""
from libc.stdint cimport uint64_t

from annapy._core.codec cimport Span
from annapy._core.tree cimport TreeOwner

cdef int tree_upsert(TreeOwner* o, uint64_t* root, Span key, Span payload) noexcept nogil
cdef int tree_remove(TreeOwner* o, uint64_t* root, Span key) noexcept nogil
# MISSING: no such key, and no new version.
cdef int tree_replace_prefix(TreeOwner* o, uint64_t* root, Span prefix) noexcept nogil
cdef int tree_apply_partial(TreeOwner* o, uint64_t* root, Span partial, const Span* keys,
                            size_t n) noexcept nogil
# The counterpart of tree_partial, after the lattice's join: takes over the prefix and every entry
# of `partial`, and removes those of the `keys` (ascending, unique) that it does not have.
