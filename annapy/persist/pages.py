"""LMDB's data file as bytes: is it whole, before anything maps it?

Owns     a read-only walk over a data file of LMDB 0.9 (64-bit, little-endian). It reads through a
         descriptor, never through the map, so that no damage can fault the process.
Callers  env (heads of every file, the whole of small ones, files that are too short), check.

    page    16-byte header: u64 number, u16 -, u16 flags, u16 lower, u16 upper (overflow: u32 pages)
            then u16 offsets of nodes up to `lower`, nodes from `upper` to the page's end
    node    u16 low, u16 high, u16 flags, u16 key length, key, data
            leaf: low | high << 16 = data length · branch: with flags << 32 = the child's number
    meta    pages 0 and 1; transaction N is described by page N & 1
    tree    48 bytes: u32 page size, u16 flags, u16 depth, u64 branches, leaves, overflow pages,
            entries, root

Invariants checked
    both meta pages are whole and one transaction apart      a flipped id would choose the older one
    every page in reach is inside the file, carries its number, is reached once
    every key of a subtree lies between the separators above it, in strictly ascending order
    counts and depth of every tree are those that the walk finds
    free pages are listed once, in order, and are not in reach

LMDB keeps no checksums: bytes *inside* keys and values are the business of `check`.
"""
from __future__ import annotations

import os
import sys
import time
from struct import Struct

from annapy.errors import CorruptCellError, FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Head", "Tree", "page_size_of", "read_head", "supported", "walk"]

PAGE_BRANCH = 0x01
PAGE_LEAF = 0x02
PAGE_OVERFLOW = 0x04
PAGE_META = 0x08
NODE_BIG = 0x01
NODE_TREE = 0x02
NO_PAGE = (1 << 64) - 1
MAGIC = 0xBEEFC0DE
VERSION = 1
INTEGER_KEYS = 0x08            # the flag of the tree of free pages
NO_SUBDIR = 0x4000             # may stand beside it; says nothing about the format
DEPTH_MAX = 32
HEAD_RETRIES = 3
HEAD_RETRY_S = 0.002
HEADER_SIZE = 16

_page = Struct("<QHHHH")
_overflow = Struct("<QHHI")
_node = Struct("<HHHH")
_tree = Struct("<IHHQQQQQ")
_meta = Struct("<QHHHHIIQQ")   # page header, then magic, version, address, map size
_last = Struct("<QQ")          # last page, transaction id
META_SIZE = _meta.size + 2 * _tree.size + _last.size


class Tree:
    """One B+tree as its parent describes it."""

    __slots__ = ("branches", "depth", "entries", "flags", "leaves", "overflow", "page_size", "root")

    def __init__(self, row: bytes) -> None:
        (self.page_size, self.flags, self.depth, self.branches, self.leaves, self.overflow,
         self.entries, self.root) = _tree.unpack(row)


class Head:
    """A transaction as its meta page describes it."""

    __slots__ = ("free", "last_page", "main", "page_size", "transaction")

    def __init__(self, page: bytes) -> None:
        at = _meta.size
        self.free = Tree(page[at:at + _tree.size])
        self.main = Tree(page[at + _tree.size:at + 2 * _tree.size])
        self.last_page, self.transaction = _last.unpack_from(page, at + 2 * _tree.size)
        self.page_size = self.free.page_size


def supported() -> bool:
    """Whether this machine writes the layout that this module reads."""
    return sys.byteorder == "little" and sys.maxsize > 1 << 32


def _damaged(what: str) -> CorruptCellError:
    return CorruptCellError(
        f"data.mdb is damaged: {what}. Run `annapy check`, then restore a backup"
    )


def page_size_of(first: bytes) -> int:
    """The page size that the first meta page states; FormatError if it isn't LMDB's."""
    if len(first) < META_SIZE:
        raise _damaged(f"it is cut off after {len(first)} bytes")
    fields = _meta.unpack_from(first)
    flags, magic, version = fields[2], fields[5], fields[6]
    if magic != MAGIC or flags != PAGE_META:
        raise _damaged("its first page is not LMDB's")
    if version != VERSION:
        raise FormatError(
            f"data.mdb has LMDB data version {version}, this annapy reads {VERSION}; "
            "copy it with the program that wrote it", expected=VERSION, found=version,
        )
    size = int(_tree.unpack_from(first, _meta.size)[0])
    if size < 512 or size > 65536 or size & (size - 1):
        raise _damaged(f"its page size is {size}")
    return size


def read_head(fd: int, transaction: int | None = None) -> Head:
    """The newest transaction in the file, or the one asked for if it is still there; O(1).

    Raises CorruptCellError if the meta pages make no sense, or are not one transaction apart:
    LMDB would then silently open an older state, whose pages may have been used again. An owner
    may commit between the reads of the two pages, so a refusal is looked at again.
    """
    for _ in range(HEAD_RETRIES):
        try:
            return _read_head(fd, transaction)
        except CorruptCellError:  # noqa: PERF203 - a few tries
            time.sleep(HEAD_RETRY_S)
    return _read_head(fd, transaction)


def _read_head(fd: int, transaction: int | None) -> Head:
    size = os.fstat(fd).st_size
    page_size = page_size_of(os.pread(fd, META_SIZE, 0))
    heads = []
    for number in (0, 1):
        page = os.pread(fd, META_SIZE, number * page_size)
        if page_size_of(page) != page_size:
            raise _damaged("its meta pages disagree about the page size")
        head = Head(page)
        _check_meta(number, _meta.unpack_from(page), head, size)
        heads.append(head)
    first, second = (head.transaction for head in heads)
    if abs(first - second) != 1 and (first, second) != (0, 0):
        raise _damaged(f"its meta pages are of transactions {first} and {second}")
    for head in heads:
        if head.transaction == transaction:
            return head
    return heads[0] if first > second else heads[1]


def _check_meta(number: int, fields: tuple[int, ...], head: Head, size: int) -> None:
    page_number, address, map_size = fields[0], fields[7], fields[8]
    if page_number != number or address != 0:
        raise _damaged(f"meta page {number} is not where it belongs")
    if head.transaction and head.transaction & 1 != number:
        raise _damaged(f"meta page {number} is of transaction {head.transaction}")
    if head.free.flags & ~NO_SUBDIR != INTEGER_KEYS or head.main.flags != 0:
        raise _damaged(f"meta page {number} has unknown flags")
    if map_size % head.page_size or map_size > 1 << 47:
        raise _damaged(f"meta page {number} has a map of {map_size} bytes")
    if head.last_page < 1 or head.last_page * head.page_size > max(map_size, size):
        raise _damaged(f"meta page {number} ends at page {head.last_page}")


class _Walk:
    """One walk over the trees of one transaction."""

    __slots__ = ("fd", "head", "leaf", "limit", "progress", "reached", "seen", "size", "trees")

    def __init__(self, fd: int, head: Head, progress: Callable[[int, int], None] | None) -> None:
        self.fd = fd
        self.head = head
        self.limit = head.last_page + 1
        self.size = head.page_size
        self.seen = bytearray(self.limit)      # 1: in reach, 2: free
        self.reached = 2
        self.progress = progress
        self.trees: dict[bytes, Tree] = {}

    def page(self, number: int, count: int = 1) -> None:
        """Note that `count` pages from `number` on are in reach."""
        if number < 2 or number + count > self.limit:
            raise _damaged(f"page {number} lies outside the file's {self.limit} pages")
        if any(self.seen[number:number + count]):
            raise _damaged(f"page {number} is used twice")
        self.seen[number:number + count] = b"\1" * count
        self.reached += count
        if self.progress is not None and self.reached & 1023 == 0:
            self.progress(self.reached, self.limit)

    def read(self, number: int) -> tuple[bytes, int, list[int]]:
        """(page, flags, offsets of its nodes), checked to lie within the page."""
        page = os.pread(self.fd, self.size, number * self.size)
        if len(page) < self.size:
            raise _damaged(f"it is cut off before page {number}")
        own, _, flags, lower, upper = _page.unpack_from(page)
        if own != number:
            raise _damaged(f"page {number} says that it is page {own}")
        if not HEADER_SIZE <= lower <= upper <= self.size or lower & 1:
            raise _damaged(f"page {number} has impossible bounds")
        offsets = list(memoryview(page)[HEADER_SIZE:lower].cast("H"))
        if offsets and (min(offsets) < upper or max(offsets) > self.size - _node.size):
            raise _damaged(f"page {number} has a node outside itself")
        return page, flags, offsets

    def tree(self, name: str, tree: Tree, visit: Callable[[bytes, bytes, int], None]) -> None:
        """Walk one tree; `visit(key, data, node flags)` for its leaves, big values left out."""
        counts = [0, 0, 0, 0]      # branches, leaves, overflow pages, entries
        if tree.root == NO_PAGE:
            if tree.depth or tree.entries or tree.branches or tree.leaves or tree.overflow:
                raise _damaged(f"the tree {name} has no root, but entries")
            return
        if not 1 <= tree.depth <= DEPTH_MAX:
            raise _damaged(f"the tree {name} is {tree.depth} levels deep")
        integers = tree.flags & INTEGER_KEYS != 0
        self._subtree(tree.root, tree.depth, None, None, integers, counts, visit)
        if counts != [tree.branches, tree.leaves, tree.overflow, tree.entries]:
            raise _damaged(f"the tree {name} counts {tree.entries} entries, found {counts[3]}")

    def _subtree(
        self, number: int, levels: int, low: bytes | int | None, high: bytes | int | None,
        integers: bool, counts: list[int], visit: Callable[[bytes, bytes, int], None],
    ) -> None:
        self.page(number)
        page, flags, offsets = self.read(number)
        if flags != (PAGE_LEAF if levels == 1 else PAGE_BRANCH) or not offsets:
            raise _damaged(f"page {number} is of the wrong kind")
        if levels == 1:
            counts[1] += 1
            counts[3] += len(offsets)
            self._leaf(number, page, offsets, low, high, integers, counts, visit)
            return
        counts[0] += 1
        children = self._branch(number, page, offsets, low, high, integers)
        for child, first, after in children:
            self._subtree(child, levels - 1, first, after, integers, counts, visit)

    def _branch(
        self, number: int, page: bytes, offsets: list[int], low: bytes | int | None,
        high: bytes | int | None, integers: bool,
    ) -> list[tuple[int, bytes | int | None, bytes | int | None]]:
        """(child, first key allowed, first key not allowed) for every node of a branch page."""
        keys: list[bytes | int | None] = []
        numbers = []
        for index, at in enumerate(offsets):
            lo, hi, top, length = _node.unpack_from(page, at)
            key = page[at + 8:at + 8 + length]
            if at + 8 + length > self.size:
                raise _damaged(f"page {number} has a key outside itself")
            numbers.append(lo | hi << 16 | top << 32)
            keys.append(low if index == 0 else self._key(number, key, integers))
        bounds = [*keys[1:], high]
        for before, after in zip(keys, bounds, strict=True):
            if before is None or after is None:
                continue
            if not before < after:  # type: ignore[operator]
                raise _damaged(f"page {number} has keys out of order")
        return list(zip(numbers, keys, bounds, strict=True))

    def _key(self, number: int, key: bytes, integers: bool) -> bytes | int:
        if integers:
            if len(key) != 8:
                raise _damaged(f"page {number} has a free list without a transaction")
            return int.from_bytes(key, "little")
        if not key:
            raise _damaged(f"page {number} has an empty key")
        return key

    def _leaf(
        self, number: int, page: bytes, offsets: list[int], low: bytes | int | None,
        high: bytes | int | None, integers: bool, counts: list[int],
        visit: Callable[[bytes, bytes, int], None],
    ) -> None:
        before = None
        used = 0
        for at in offsets:
            lo, hi, flags, length = _node.unpack_from(page, at)
            size = lo | hi << 16
            start = at + 8 + length
            end = start + (8 if flags & NODE_BIG else size)
            if end > self.size or flags & ~(NODE_BIG | NODE_TREE) or flags == NODE_BIG | NODE_TREE:
                raise _damaged(f"page {number} has a node outside itself, or of an unknown kind")
            key = self._key(number, page[at + 8:start], integers)
            if before is None:
                if low is not None and key < low:  # type: ignore[operator]
                    raise _damaged(f"page {number} has a key that belongs before it")
            elif not before < key:  # type: ignore[operator]
                raise _damaged(f"page {number} has keys out of order")
            before = key
            used += (end - at + 1) & ~1
            data = page[start:end]
            if flags & NODE_BIG:
                data = self._big(int.from_bytes(data, "little"), size, counts, integers)
            visit(key if isinstance(key, bytes) else page[at + 8:start], data, flags)
        if high is not None and not before < high:  # type: ignore[operator]
            raise _damaged(f"page {number} has a key that belongs after it")
        if used > self.size - _page.unpack_from(page)[4]:
            raise _damaged(f"page {number} has nodes that overlap")

    def _big(self, number: int, size: int, counts: list[int], wanted: bool) -> bytes:
        """A value on pages of its own: note them; its bytes only if they are `wanted`."""
        count = (HEADER_SIZE - 1 + size) // self.size + 1
        self.page(number, count)
        counts[2] += count
        head = os.pread(self.fd, HEADER_SIZE, number * self.size)
        if len(head) < HEADER_SIZE:
            raise _damaged(f"it is cut off before page {number}")
        own, _, flags, pages = _overflow.unpack(head)
        if own != number or flags != PAGE_OVERFLOW or pages != count:
            raise _damaged(f"page {number} does not begin a value of {size} bytes")
        if (number * self.size) + HEADER_SIZE + size > os.fstat(self.fd).st_size:
            raise _damaged(f"it is cut off within the value on page {number}")
        return os.pread(self.fd, size, number * self.size + HEADER_SIZE) if wanted else b""

    def free_list(self, key: bytes, data: bytes, flags: int) -> None:
        """One record of the tree of free pages: count, then numbers, descending."""
        transaction = int.from_bytes(key, "little")
        if flags & NODE_TREE or len(data) < 8 or len(data) % 8:
            raise _damaged("a list of free pages has the wrong length")
        if transaction > self.head.transaction:
            raise _damaged("a list of free pages comes from a later transaction")
        numbers = memoryview(data).cast("Q")
        count = numbers[0]
        if count + 1 > len(numbers):
            raise _damaged("a list of free pages is cut off")
        before = self.limit
        for number in numbers[1:count + 1]:
            if not 2 <= number < before or self.seen[number] == 2:
                raise _damaged(f"page {number} is free twice, or out of order")
            if self.seen[number]:
                raise _damaged(f"page {number} is free and in use")
            self.seen[number] = 2
            before = number

    def named_tree(self, key: bytes, data: bytes, flags: int) -> None:
        if not flags & NODE_TREE:
            return
        if len(data) != _tree.size:
            raise _damaged(f"the tree {key!r} has a description of {len(data)} bytes")
        self.trees[key] = Tree(data)


def walk(
    fd: int, head: Head, progress: Callable[[int, int], None] | None = None
) -> dict[bytes, Tree]:
    """Check every page of the transaction `head`; the named trees, by name. O(size of the store).

    The file must not be written to meanwhile, or `head` must be pinned by a read transaction.
    Raises CorruptCellError naming the first page that makes no sense.
    """
    state = _Walk(fd, head, progress)
    state.tree("main", head.main, state.named_tree)
    for name, tree in state.trees.items():
        if tree.flags:
            raise _damaged(f"the tree {name!r} has unknown flags")
        state.tree(repr(name), tree, _ignore)
    state.tree("of free pages", head.free, state.free_list)
    return state.trees


def _ignore(_key: bytes, _data: bytes, _flags: int) -> None:
    """Contents are checked elsewhere."""
