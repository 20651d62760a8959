"""The disk tier: one LMDB environment and one persister a store. docs/internals/persist.md.

    records     every byte layout              owner      who has the directory
    pages       LMDB's file, as bytes          env        opening, closing, making an environment
    faults      errors, translated             recover    who a store is, how far it got
    reader      cold reads, pages of keys      writer     a cut, as rows
    persister   group commit                   check      is it all there
    backup      copies, taken and put back

Owns    nothing. Import from the modules: `import annapy` loads none of them, and opening a store
        with a directory loads no more than opening takes.
"""
from __future__ import annotations

__all__: list[str] = []
