"""Is everything there, and right? Reads all of a store, changes nothing, works beside an owner.

Owns     nothing: one read transaction over the whole store, and the report.
Callers  `annapy check`, backup and restore, and the opening of small stores.

    pages       the trees' structure, through a descriptor (see pages): before anything is mapped
    cells       fold, checksum over key and cell, the cell's canonical form
    chunks      every manifest adds up, every chunk is there, none is left over
    deadlines   both rows of every deadline, and no others
    meta        checksums of the rows, the live count

Invariants
    a problem in the pages ends the check: LMDB is not asked to read what makes no sense
    problems are counted without limit and kept up to PROBLEMS_MAX
"""
from __future__ import annotations

import os

from annapy.errors import AnnapyError, CorruptCellError, shorten_key
from annapy.persist import pages
from annapy.persist.env import DATA, Environment, lmdb_module, read_row
from annapy.persist.faults import translate
from annapy.persist.reader import assemble
from annapy.persist.records import (
    CHUNKED_SIZE,
    Manifest,
    chunk_key,
    chunked_size,
    due_key,
    fold,
    parse_due_key,
    record_body,
    ttl_key,
    unpack_deadline,
    whole_key,
)
from annapy.persist.recover import read_identity, read_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Report", "check", "check_environment", "refuse_damaged"]

PROBLEMS_MAX = 1000
PROGRESS_EVERY = 4096
HEAD_TRIES = 20
SYSTEM = bytes(4)              # namespace 0: not the user's, not counted


class Report:
    """What a check found. Truthy if nothing was wrong."""

    __slots__ = ("cells", "chunked", "deadlines", "file_bytes", "live", "pages", "problem_count",
                 "problems")

    def __init__(self) -> None:
        self.pages = 0             # in the file
        self.cells = 0             # records
        self.chunked = 0           # of them, in chunks
        self.deadlines = 0         # keys with one
        self.live = 0              # keys of the user; an emptied set is one, a deleted key none
        self.file_bytes = 0
        self.problem_count = 0
        self.problems: list[str] = []

    def __bool__(self) -> bool:
        return self.problem_count == 0

    def add(self, problem: str) -> None:
        """Count a problem; keep its text while there is room."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)

    def __repr__(self) -> str:
        state = "whole" if self else f"{self.problem_count} problems"
        return f"<Report {state}: {self.cells} cells, {self.file_bytes} bytes>"


def check(directory: str, progress: Callable[[int, int], None] | None = None) -> Report:
    """Verify every page and record of the store in `directory`; never modifies anything.

    Beside an owner, too: it sees the last commit before the call, and keeps that snapshot's pages
    in use for as long as it runs (the file may grow meanwhile). `progress(done, total)` is called
    now and then. Damage is reported, not raised; a directory that holds no store, or one of a newer
    format, is FormatError, and permissions are ReadOnlyError. Cost: reads the whole store once.
    """
    directory = os.path.abspath(directory)
    try:
        env = Environment.open(directory, readonly=True)
    except CorruptCellError as error:
        report = Report()
        report.add(str(error))
        return report
    try:
        return check_environment(env, progress)
    finally:
        env.close()


def check_environment(
    env: Environment, progress: Callable[[int, int], None] | None = None
) -> Report:
    """The same for an environment that is open already."""
    report = Report()
    report.file_bytes = env.file_bytes()
    try:
        with _pinned(env, report, progress) as txn:
            if report:
                _Contents(env, txn, report, progress).run()
    except lmdb_module().Error as error:
        report.add(str(translate(error, env.path, "checking")))
    except CorruptCellError as error:
        report.add(str(error))
    return report


def refuse_damaged(env: Environment) -> None:
    """Raise CorruptCellError with the first problem; for small stores, as they are opened."""
    report = check_environment(env)
    if not report:
        raise CorruptCellError(f"{env.path!r}: {report.problems[0]}")


def _pinned(env: Environment, report: Report, progress: Callable[[int, int], None] | None) -> Any:
    """A read transaction whose pages have been walked; problems go to the report."""
    fd = os.open(os.path.join(env.path, DATA), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in range(HEAD_TRIES):    # an owner may commit twice between begin and looking
            txn = env.snapshot()
            head = env.head(fd, txn) if pages.supported() else None
            if head is not None or not pages.supported():
                break
            txn.abort()
        else:
            raise AnnapyError(f"{env.path!r} is committing too fast to be looked at; try again")
        if head is not None:
            report.pages = head.last_page + 1
            try:
                pages.walk(fd, head, progress)
            except CorruptCellError as error:
                report.add(str(error))
        return txn
    finally:
        os.close(fd)


class _Contents:
    """The pass over cells, chunks, deadlines and meta rows of one snapshot."""

    __slots__ = ("done", "due", "env", "expected_chunks", "expired", "inspect", "progress",
                 "report", "total", "txn")

    def __init__(
        self, env: Environment, txn: Any, report: Report,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        from annapy._core import stored

        _load_lattices()
        self.inspect = stored.inspect
        self.env = env
        self.txn = txn
        self.report = report
        self.progress = progress
        self.done = 0
        self.total = sum(
            txn.stat(tree)["entries"] for tree in (env.cells, env.chunks, env.deadlines)
        )
        self.expected_chunks = 0
        self.due = 0               # deadline rows that cells account for
        self.expired = 0

    def run(self) -> None:
        for row, value in self.txn.cursor(self.env.cells):
            self._step()
            self.report.cells += 1
            try:
                self._cell(row, value)
            except CorruptCellError as error:
                self.report.add(f"key {shorten_key(row[4:])}: {error}")
        self._chunks()
        self._deadlines()
        self._meta()

    def _step(self) -> None:
        self.done += 1
        if self.progress is not None and self.done % PROGRESS_EVERY == 0:
            self.progress(self.done, self.total)

    def _cell(self, row: bytes, value: bytes) -> None:
        whole = whole_key(row, value)
        body = record_body(row, value)
        if fold(whole) != row:
            raise CorruptCellError("it is filed under another key's name")
        if len(body) == CHUNKED_SIZE:
            self.report.chunked += 1
            body = assemble(self.env, self.txn, row, chunked_size(body))
            manifest = self.txn.get(chunk_key(row, 0), db=self.env.chunks)
            self.expected_chunks += 1 + len(Manifest.decode(manifest).chunks)
        state, _, deadline_ms, _ = self.inspect(whole, body)
        if state:
            raise CorruptCellError(
                "its checksum is wrong" if state == 1 else "its cell is not canonical"
            )
        if row[:4] != SYSTEM:
            self.report.live += 1
        if deadline_ms:
            self._cell_deadline(row, whole, deadline_ms)

    def _cell_deadline(self, row: bytes, whole: bytes, deadline_ms: int) -> None:
        tree = self.env.deadlines
        self.report.deadlines += 1
        by_key = self.txn.get(ttl_key(row), db=tree)
        by_time = self.txn.get(due_key(deadline_ms, row), db=tree)
        if by_key is None or unpack_deadline(by_key) != deadline_ms or by_time is None:
            raise CorruptCellError(f"its deadline {deadline_ms} is not in the index")
        if by_time != (b"" if whole == row else whole):
            raise CorruptCellError("the index of deadlines names another key")
        self.due += 1

    def _chunks(self) -> None:
        rows = self.txn.stat(self.env.chunks)["entries"]
        if rows == self.expected_chunks:
            self.done += rows
            return
        for row in self.txn.cursor(self.env.chunks).iternext(keys=True, values=False):
            self._step()
            if not self._chunk_belongs(bytes(row[:-4]), int.from_bytes(row[-4:], "big")):
                self.report.add(f"a chunk of {shorten_key(row[4:-4])} belongs to no record")

    def _chunk_belongs(self, folded: bytes, number: int) -> bool:
        cell = self.txn.get(folded, db=self.env.cells)
        manifest = self.txn.get(chunk_key(folded, 0), db=self.env.chunks)
        if cell is None or len(record_body(folded, cell)) != CHUNKED_SIZE or manifest is None:
            return False
        try:
            chunks = Manifest.decode(manifest).chunks
        except CorruptCellError:
            return True                # reported with its cell
        return number == 0 or any(number == own for own, _ in chunks)

    def _deadlines(self) -> None:
        tree = self.env.deadlines
        if self.txn.stat(tree)["entries"] == 2 * self.due:
            return
        for row, value in self.txn.cursor(tree):
            self._step()
            if row[:1] == b"\0":
                deadline_ms, folded = parse_due_key(row)
            else:
                deadline_ms, folded = unpack_deadline(value), row[1:]
            cell = self.txn.get(folded, db=self.env.cells)
            if cell is None or self._deadline_of(folded, cell) != deadline_ms:
                self.report.add(
                    f"the deadline {deadline_ms} of {shorten_key(folded[4:])} is not its cell's"
                )

    def _deadline_of(self, row: bytes, value: bytes) -> int:
        body = record_body(row, value)
        if len(body) == CHUNKED_SIZE:
            body = assemble(self.env, self.txn, row, chunked_size(body))
        return int(self.inspect(whole_key(row, value), body)[2])

    def _meta(self) -> None:
        read_identity(self.txn)
        read_row(self.txn, b"options")
        state = read_state(self.txn)
        # A key whose deadline has passed counts as live until the owner has removed it.
        least = self.report.live - self.report.deadlines
        if not least <= state.live <= self.report.live:
            self.report.add(
                f"the live count is {state.live}, but {self.report.live} keys are live"
            )


def _load_lattices() -> None:
    """The lattices whose states are to be verified: all that there are."""
    from importlib import import_module

    import_module("annapy._core.face")
