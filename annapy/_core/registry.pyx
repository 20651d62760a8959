"""The table of lattices; registry.pxd has the contract."""
from libc.stdint cimport uint8_t

cdef LatticeType table[256]
cdef const LatticeType* known[256]


cdef void lattice_register(const LatticeType* lattice) noexcept nogil:
    table[lattice.tag] = lattice[0]
    known[lattice.tag] = &table[lattice.tag]


cdef const LatticeType* lattice_of(uint8_t tag) noexcept nogil:
    return known[tag]


def kinds() -> dict[str, int]:
    """Public name of every lattice that is registered, and its tag."""
    cdef int tag
    return {
        known[tag].kind.decode(): tag for tag in range(256) if known[tag] != NULL
    }
