"""A cut becomes a transaction: rows of cells, chunks and deadlines, nothing left over.

Owns     the mapping from a cut to LMDB operations. Runs inside one write transaction at a time.
Callers  persister, which owns the transaction, and holds the commit lock while this runs.

Invariants, before and after every transaction
    a key has rows in `chunks`  <=>  its record in `cells` says so; they are its manifest's
    a key has a row by deadline  <=>  it has one by key, with that deadline
What a cut says about a key is all there is about it: a key of the cut without a deadline has none.
Old manifests and deadlines are looked for only while there are any at all in the store.
"""
from __future__ import annotations

from operator import itemgetter

from annapy.persist.records import (
    CHUNK_SIZE,
    HEAD_SIZE,
    KEY_MAX,
    PLAIN_MAX,
    Manifest,
    chunk_key,
    due_key,
    encode_chunked,
    encode_record,
    fold,
    pack_deadline,
    ttl_key,
    unpack_deadline,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from annapy.persist.env import Environment

__all__ = ["Writer"]

_first = itemgetter(0)


class Writer:
    """What the owner remembers between commits so that most of them need no look-ups."""

    __slots__ = ("_env", "chunk_rows", "deadline_rows")

    def __init__(self, env: Environment, txn: Any) -> None:
        self._env = env
        self.chunk_rows = 0        # as of the last commit; there is no other writer
        self.deadline_rows = 0
        self.recount(txn)

    def recount(self, txn: Any) -> None:
        """Ask LMDB how many rows there are of what most stores have none of."""
        self.chunk_rows = txn.stat(self._env.chunks)["entries"]
        self.deadline_rows = txn.stat(self._env.deadlines)["entries"]

    def write(self, txn: Any, cut: Any) -> None:
        """Everything that the cut says, into `txn`. Sorted, so that neighbours share a page."""
        env = self._env
        rows = cut.puts
        large: list[tuple[bytes, bytes]] = []
        if [1 for key, record in rows if len(key) > KEY_MAX or len(record) > PLAIN_MAX]:
            large = [row for row in rows if len(row[1]) > PLAIN_MAX]
            rows = [
                (fold(key), encode_record(key, record)) for key, record in rows
                if len(record) <= PLAIN_MAX
            ]
        if self.chunk_rows:
            self._drop_chunks(txn, [row[0] for row in rows])
        for key, record in large:
            folded = fold(key)
            self._write_chunks(txn, folded, record)
            rows.append((folded, encode_chunked(key, len(record))))
        if len(rows) == 1:
            txn.put(*rows[0], db=env.cells)
        elif rows:
            rows.sort(key=_first)
            txn.cursor(env.cells).putmulti(rows)
        if cut.deletes:
            self._delete(txn, cut.deletes)
        if cut.deadlines or self.deadline_rows:
            self._write_deadlines(txn, cut)

    def _delete(self, txn: Any, keys: Iterable[bytes]) -> None:
        folded = sorted([fold(key) for key in keys])
        if self.chunk_rows:
            self._drop_chunks(txn, folded)
        cells = self._env.cells
        for key in folded:
            txn.delete(key, db=cells)

    # --- large records ----------------------------------------------------------------------

    def _drop_chunks(self, txn: Any, folded: list[bytes]) -> None:
        """Of keys whose record is, from now on, not chunked."""
        chunks = self._env.chunks
        manifests = [chunk_key(key, 0) for key in folded]
        manifests.sort()
        for row, value in txn.cursor(chunks).getmulti(manifests):
            for number, _ in Manifest.decode(bytes(value)).chunks:
                txn.delete(chunk_key(bytes(row[:-4]), number), db=chunks)
            txn.delete(row, db=chunks)

    def _write_chunks(self, txn: Any, folded: bytes, record: bytes) -> None:
        """Put only the chunks that differ from those that are there."""
        chunks = self._env.chunks
        row = chunk_key(folded, 0)
        value = txn.get(row, db=chunks)
        old = Manifest.decode(bytes(value)) if value is not None else None
        old_chunks = old.chunks if old is not None else []
        next_id = old.next_id if old is not None else 1
        entries = []
        for index, at in enumerate(range(HEAD_SIZE, len(record), CHUNK_SIZE)):
            piece = record[at:at + CHUNK_SIZE]
            if index < len(old_chunks):
                number, length = old_chunks[index]
            else:
                number, length, next_id = next_id, -1, next_id + 1
            entries.append((number, len(piece)))
            where = chunk_key(folded, number)
            if length != len(piece) or txn.get(where, db=chunks) != piece:
                txn.put(where, piece, db=chunks)
        for number, _ in old_chunks[len(entries):]:
            txn.delete(chunk_key(folded, number), db=chunks)
        manifest = Manifest(len(record), next_id, record[:HEAD_SIZE], entries)
        txn.put(row, manifest.encode(), db=chunks)

    # --- deadlines --------------------------------------------------------------------------

    def _write_deadlines(self, txn: Any, cut: Any) -> None:
        tree = self._env.deadlines
        new = {key: deadline for key, deadline in cut.deadlines if deadline}
        if self.deadline_rows:
            touched = [fold(key) for key, _ in cut.puts]
            touched += [fold(key) for key in cut.deletes]
            touched += [fold(key) for key in new]
            rows = sorted({ttl_key(key) for key in touched})
            for row, value in txn.cursor(tree).getmulti(rows):
                txn.delete(due_key(unpack_deadline(bytes(value)), bytes(row[1:])), db=tree)
                txn.delete(row, db=tree)
        fresh = []
        for key, deadline in new.items():
            folded = fold(key)
            fresh.append((due_key(deadline, folded), key if len(key) > KEY_MAX else b""))
            fresh.append((ttl_key(folded), pack_deadline(deadline)))
        if fresh:
            fresh.sort()
            txn.cursor(tree).putmulti(fresh)
