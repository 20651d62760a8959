"""Collections that are trees: the code; large.pxd has the contract."""
from libc.stdint cimport uint8_t, uint64_t

from annapy._core.cell cimport Cell, cell_parse, cell_write_header
from annapy._core.codec cimport CORRUPT, OK, Buf, Span, span
from annapy._core.collection cimport collection_apply, collection_join
from annapy._core.registry cimport LATTICE_COLLECTION, OP_MERGE, LatticeType, Op
from annapy._core.shard cimport Shard
from annapy._core.tree cimport (
    TREE_FROM, tree_bytes, tree_flatten, tree_publish, tree_release,
)
from annapy._core.tree_chunks cimport tree_build


cdef bint large_wanted(const LatticeType* lattice, size_t state_len) noexcept nogil:
    return state_len >= TREE_FROM and lattice.flags & LATTICE_COLLECTION


cdef int large_build(Shard* shard, Span flat, uint64_t* root) noexcept nogil:
    cdef int status = tree_build(&shard.trees, flat, root)
    if status == OK:
        tree_publish(&shard.trees, root[0])
    return status


cdef int large_apply(Shard* shard, const LatticeType* lattice, const Op* op,
                     uint64_t* root) noexcept nogil:
    cdef uint64_t before = root[0]
    cdef int status
    if op.code == OP_MERGE:
        status = collection_join(&shard.trees, &shard.scratch, lattice, op.arg, root)
    else:
        status = collection_apply(&shard.trees, &shard.scratch, lattice, op, root)
    if status == OK and root[0] != before:
        tree_publish(&shard.trees, root[0])
    return status


cdef int large_cell(const uint8_t* base, const uint8_t* cell, size_t cell_len,
                    Buf* out) noexcept nogil:
    cdef Cell parsed
    cdef uint64_t root
    cdef int status
    if cell_parse(span(cell, cell_len), &parsed) != OK or parsed.state.len != 8:
        return CORRUPT
    root = large_root(&parsed)
    cell_write_header(out, &parsed, tree_bytes(base, root))
    status = tree_flatten(base, root, out)
    return status if status != OK else out.status


cdef void large_release(Shard* shard, uint64_t root) noexcept nogil:
    tree_release(&shard.trees, root)
