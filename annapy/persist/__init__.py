"""The disk tier: one LMDB environment and one persister a store. docs/internals/persist.md.

    records     every byte layout              owner      who has the directory
    pages       LMDB's file, as bytes          env        opening, closing, making an environment
    faults      errors, translated             recover    who a store is, how far it got
    reader      cold reads, pages of keys      writer     a cut, as rows
    persister   group commit                   check      is it all there
    backup      copies, taken and put back

Nothing here is loaded by `import annapy`; opening a store with a directory does.
"""
from __future__ import annotations

from annapy.persist.backup import backup, restore
from annapy.persist.check import Report, check
from annapy.persist.persister import Persister

__all__ = ["Persister", "Report", "backup", "check", "restore"]
