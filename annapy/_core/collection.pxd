# cython: language_level=3
"""Operations on large collections: which entries an operation touches, and how it is applied.

Owns    the way from an operation to a new version of a tree. The lattice's own mutate and join do
        the work, on a small flat state: the prefix and the touched entries. This is exact because
        a collection's entries join independently, given the prefixes (joins_set.pxd).
Callers the owner of the tree only.

Touched are the members of OP_ADD and OP_REMOVE and the field of OP_UPDATE. Merging a state touches
the entries that it names, unless its causal context covers dots that it does not hold: those were
removed somewhere, and whose they are is not known without looking at every entry. Then, for
OP_CLEAR, and where a fifth or more of the entries is touched, the tree is flattened, joined and
built again.
"""
from libc.stdint cimport uint64_t

from annapy._core.codec cimport Buf, Span
from annapy._core.registry cimport LatticeType, Op
from annapy._core.tree cimport TreeOwner

cdef struct CollectionScratch:   # memory kept from one operation to the next; one an owner
    Buf partial
    Buf delta                    # after collection_apply: the operation's delta, empty: no change
    Buf result

cdef void scratch_init(CollectionScratch* s) noexcept nogil
cdef void scratch_free(CollectionScratch* s) noexcept nogil

cdef int collection_touched(const Op* op, Span** keys, size_t* n, bint* all) noexcept nogil
# Ascending and unique; the caller frees *keys. OK, CORRUPT, NO_MEMORY.

cdef int collection_apply(TreeOwner* o, CollectionScratch* s, const LatticeType* lattice,
                          const Op* op, uint64_t* root) noexcept nogil
# *root becomes the root after the operation, not published, or stays if nothing changes. A
# published root stays valid and still has to be released; one that is not is changed or replaced.
# On failure nothing is changed, except that NO_MEMORY on an unpublished root may leave a part of
# it: release it. Statuses of mutate and join, and WRONG_TYPE for a merge of another lattice's cell.

cdef int collection_join(TreeOwner* o, CollectionScratch* s, const LatticeType* lattice, Span state,
                         uint64_t* root) noexcept nogil
# The same for the join with a verified flat state.
