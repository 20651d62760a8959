"""Cold reads: one key, a page of keys in order, what has expired. Everything else never gets here.

Owns     a count of misses; each call is one short read transaction on the environment.
Callers  the engine (`load`, from any thread), the store (scan, expiry), check.

Invariants
    no read transaction outlives a call        old pages stay in use only that long
    a page is bounded                          PAGE_ROWS rows, PAGE_BYTES of records
    keys come in the order of whole keys       also those that are folded on disk
Order. Folding keeps the first 448 bytes, so LMDB's order is key order up to there. Keys that share
them form a *group*, within which the order is that of digests: a group is read as a whole and the
next few of it are picked, in memory bounded by the page, however large the group is.
"""
from __future__ import annotations

from annapy.errors import AnnapyError, CorruptCellError
from annapy.persist.faults import translate
from annapy.persist.records import (
    CHUNKED_SIZE,
    FOLDED_SIZE,
    KEY_MAX,
    PREFIX_SIZE,
    Manifest,
    chunk_key,
    chunked_size,
    fold,
    parse_due_key,
    record_body,
    whole_key,
)
from annapy.persist.recover import read_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from annapy.persist.env import Environment

__all__ = ["Reader", "assemble"]

PAGE_ROWS = 512
MISSES_MANY = 1000
PAGE_BYTES = 8 << 20
NAMESPACES_END = b"\xff" * 5   # above every stored key: a namespace has four bytes


def assemble(env: Environment, txn: Any, folded: bytes, size: int) -> bytes:
    """The record of `size` bytes that lies in chunks; CorruptCellError if one is missing."""
    value = txn.get(chunk_key(folded, 0), db=env.chunks)
    if value is None:
        raise CorruptCellError(f"the chunk manifest of {folded!r} is missing; restore a backup")
    manifest = Manifest.decode(bytes(value))
    if manifest.size != size:
        raise CorruptCellError(f"the chunks of {folded!r} are not those of its record")
    parts = [manifest.head]
    for number, length in manifest.chunks:
        part = txn.get(chunk_key(folded, number), db=env.chunks)
        if part is None or len(part) != length:
            raise CorruptCellError(f"chunk {number} of {folded!r} is missing; restore a backup")
        parts.append(part)
    return b"".join(parts)


class Reader:
    """Cold reads of one environment, for any number of threads.

    `on_misses` is called once, when MISSES_MANY look-ups have found nothing: time for a filter.
    """

    __slots__ = ("_env", "_misses", "on_misses")

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._misses = 0
        self.on_misses: Callable[[], None] | None = None

    def load(self, key: bytes) -> bytes | None:
        """The record (checksum and cell) of a stored key, or None. One look-up; may wait for disk.

        The checksum is the caller's to verify: it covers every byte that is returned, and the key.
        Raises CorruptCellError, StoreClosed, StoreLocked (in a forked child).
        """
        env = self._env
        try:
            txn = env.begin(env.cells)
            try:                           # as `with` would, for half of its price
                if len(key) > KEY_MAX:
                    return self._look_up(txn, key)
                value: bytes | None = txn.get(key)
                if value is None:
                    self._missed()
                elif len(value) == CHUNKED_SIZE:
                    return self._look_up(txn, key)
                return value
            finally:
                txn.abort()
        except AnnapyError:
            raise
        except Exception as error:
            # The persister may just have had to open the environment anew: once more, then.
            return self._again(key, error)

    def _again(self, key: bytes, error: Exception) -> bytes | None:
        env = self._env
        try:
            with env.begin(env.cells) as txn:
                return self._look_up(txn, key)
        except AnnapyError:
            raise
        except Exception:
            raise translate(error, env.path, "reading") from error

    def _missed(self) -> None:
        self._misses += 1
        call = self.on_misses
        if call is not None and self._misses >= MISSES_MANY:
            self.on_misses = None
            call()

    def _look_up(self, txn: Any, key: bytes) -> bytes | None:
        """The record of any key, also where it is folded or chunked."""
        folded = fold(key)
        value = txn.get(folded)
        if value is None or whole_key(folded, value) != key:
            return None
        body = record_body(folded, value)
        if len(body) == CHUNKED_SIZE:
            return assemble(self._env, txn, folded, chunked_size(body))
        return body

    def rows(self) -> int:
        """Records on disk, the system's and empty ones included."""
        with self._env.snapshot() as txn:
            return int(txn.stat(self._env.cells)["entries"])

    def count(self) -> int:
        """Live keys as of the last commit."""
        with self._env.snapshot() as txn:
            return read_state(txn).live

    # --- in order ---------------------------------------------------------------------------

    def scan(
        self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None, *,
        namespace: int = 1, reverse: bool = False, after: bytes | None = None,
        values: bool = False,
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """(key without namespace, record or None) of what is on disk, in key order, from now on.

        `start` is inclusive, `stop` exclusive, whatever the direction; `after` continues behind a
        key. Weakly consistent: a page is a snapshot, the next one may see later commits.
        """
        while True:
            page, more = self.page(
                prefix, start, stop, namespace=namespace, reverse=reverse, after=after,
                values=values,
            )
            yield from page
            if not more:
                return
            after = page[-1][0]

    def page(
        self, prefix: bytes = b"", start: bytes | None = None, stop: bytes | None = None, *,
        namespace: int = 1, reverse: bool = False, after: bytes | None = None,
        values: bool = False, limit: int = PAGE_ROWS,
    ) -> tuple[list[tuple[bytes, bytes | None]], bool]:
        """At most `limit` rows of `scan`, and whether there may be more."""
        ns = namespace.to_bytes(4, "big")
        low = ns + (prefix if start is None else max(prefix, start))
        high = _successor(ns + prefix)
        if stop is not None:
            high = min(high, ns + stop)
        if after is not None:
            bound = ns + after
            low, high = (low, min(high, bound)) if reverse else (max(low, bound + b"\0"), high)
        if low >= high:
            return [], False
        env = self._env
        try:
            with env.begin(env.cells) as txn:
                pick = _Page(env, txn, low, high, reverse, values, max(1, limit))
                return pick.run()
        except AnnapyError:
            raise
        except Exception as error:
            raise translate(error, env.path, "scanning") from error

    def stored_keys(
        self, after: bytes | None = None, limit: int = PAGE_ROWS
    ) -> tuple[list[bytes], bytes | None]:
        """A page of the stored keys of all namespaces, and where to go on (None: end).

        For whoever needs all of them cheaply: the filter over cold keys.
        """
        env = self._env
        found: list[bytes] = []
        try:
            with env.begin(env.cells) as txn:
                cursor = txn.cursor()
                row: bytes = b"" if after is None else after
                more = cursor.set_range(row + b"\0") if row else cursor.first()
                while more:
                    if len(found) >= limit:
                        return found, row
                    row = cursor.key()
                    found.append(row if len(row) < FOLDED_SIZE else whole_key(row, cursor.value()))
                    more = cursor.next()
        except AnnapyError:
            raise
        except Exception as error:
            raise translate(error, env.path, "listing keys") from error
        return found, None

    # --- deadlines --------------------------------------------------------------------------

    def expired(self, now_ms: int, limit: int = PAGE_ROWS) -> list[bytes]:
        """Stored keys whose deadline, as committed, had passed at `now_ms`, earliest first."""
        env = self._env
        found: list[bytes] = []
        try:
            with env.begin(env.deadlines) as txn:
                cursor = txn.cursor()
                more = cursor.set_range(b"\0")
                while more and len(found) < limit:
                    row = cursor.key()
                    if row[:1] != b"\0":
                        break
                    deadline_ms, folded = parse_due_key(row)
                    if deadline_ms > now_ms:
                        break
                    found.append(cursor.value() or folded)
                    more = cursor.next()
        except AnnapyError:
            raise
        except Exception as error:
            raise translate(error, env.path, "looking for deadlines") from error
        return found


def _successor(prefix: bytes) -> bytes:
    """The least byte string above everything that begins with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return NAMESPACES_END
    return stripped[:-1] + bytes([stripped[-1] + 1])


class _Page:
    """One page being picked: rows with low <= whole key < high, in order or in reverse."""

    __slots__ = (
        "bytes_left", "cursor", "env", "high", "limit", "low", "reverse", "rows", "txn", "values",
    )

    def __init__(
        self, env: Environment, txn: Any, low: bytes, high: bytes, reverse: bool, values: bool,
        limit: int,
    ) -> None:
        self.env = env
        self.txn = txn
        self.cursor = txn.cursor()
        self.low = low
        self.high = high
        self.reverse = reverse
        self.values = values
        self.limit = limit
        self.bytes_left = PAGE_BYTES
        self.rows: list[tuple[bytes, bytes | None]] = []

    def run(self) -> tuple[list[tuple[bytes, bytes | None]], bool]:
        cursor = self.cursor
        step = cursor.prev if self.reverse else cursor.next
        more = self._seek()
        while more:
            if len(self.rows) >= self.limit or self.bytes_left <= 0:
                return self.rows, True
            row = cursor.key()
            if len(row) >= PREFIX_SIZE:
                more, whole = self._group(row[:PREFIX_SIZE], step)
                if not whole:
                    return self.rows, True
                continue
            if not self.low <= row < self.high:
                break
            self._take(row, row, cursor.value() if self.values else b"")
            more = step()
        return self.rows, False

    def _seek(self) -> bool:
        """To the first row that may count, in the direction of the scan."""
        if not self.reverse:
            low = self.low if len(self.low) <= PREFIX_SIZE else self.low[:PREFIX_SIZE]
            return bool(self.cursor.set_range(low))
        high = self.high if len(self.high) <= PREFIX_SIZE else _successor(self.high[:PREFIX_SIZE])
        if high != NAMESPACES_END and self.cursor.set_range(high):
            return bool(self.cursor.prev())
        return bool(self.cursor.last())

    def _group(self, group: bytes, step: Any) -> tuple[bool, bool]:
        """Pick from all rows that share `group`: (is there a row behind them, were all taken)."""
        if group < self.low[:PREFIX_SIZE] or group > self.high[:PREFIX_SIZE]:
            return False, True
        import heapq

        pick = heapq.nlargest if self.reverse else heapq.nsmallest
        wanted = self.limit - len(self.rows)
        found = pick(wanted + 1, self._members(group, step))
        for whole, row in found[:wanted]:
            value = self.txn.get(row) if self.values else b""
            self._take(whole, row, value)
        return bool(self.cursor.key()), len(found) <= wanted

    def _members(self, group: bytes, step: Any) -> Iterator[tuple[bytes, bytes]]:
        """(whole key, row) of a group, those in bounds; leaves the cursor behind the last."""
        more = True
        while more:
            row = self.cursor.key()
            if row[:PREFIX_SIZE] != group:
                return
            whole = row if len(row) < FOLDED_SIZE else whole_key(row, self.cursor.value())
            if self.low <= whole < self.high:
                yield whole, row
            more = step()

    def _take(self, whole: bytes, folded: bytes, value: bytes) -> None:
        if not self.values:
            self.rows.append((whole[4:], None))
            return
        body = record_body(folded, value)
        if len(body) == CHUNKED_SIZE:
            body = assemble(self.env, self.txn, folded, chunked_size(body))
        self.bytes_left -= len(body)
        self.rows.append((whole[4:], body))
