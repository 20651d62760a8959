"""What a store knows about itself when it is opened: who it is, and how far it got. O(1).

Owns     the meta rows identity and state, and the rule by which a node keeps its identity.
Callers  persister (opening, and the rows of each commit), check, backup.

    identity   u64 store · u64 node (44 bits) · u32 incarnation (20 bits) · u8 origin · 3 pad
               u64 device · u64 inode of data.mdb · 16-byte opening token · 36-byte boot id
               then the actors it had before, u64 each, newest last, PREVIOUS_MAX at most
    state      u64 live keys · u64 HLC of the cut · u64 HLC bound · u64 commits, then a u64 per
               shard: the last ticket applied

Invariants
    actor = node << 20 | incarnation, never 0
    a node keeps its actor  <=>  it can prove that it continues its own history:
        origin is OWN, data.mdb is the inode that it was (on the same boot: and device), and its
        opening token is one that DIR/owner vouches for
    every stamp in a committed cell <= HLC bound: a clock that starts there never runs backwards

The proof. Whoever opens a store for writing draws a token, vouches for it and for the file's old
one in DIR/owner, and writes it into data.mdb with the first commit. A copied directory has another
inode; an older data.mdb put back in place carries a token that the owner file no longer vouches
for; a backup is marked as one. A failed proof gives a new *node id* with the next incarnation:
counting the incarnation alone would give two copies of one directory, or two restorations of one
backup, the same actor, and two nodes that mint the same dots.
"""
from __future__ import annotations

import os
from struct import Struct

from annapy.errors import CorruptCellError
from annapy.persist.env import DATA, read_row
from annapy.persist.owner import boot_id
from annapy.persist.records import pack_u64s, unpack_u64s

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Identity", "State", "first_rows", "read_identity", "read_state"]

NODE_BITS = 44
INCARNATION_BITS = 20
PREVIOUS_MAX = 64
ORIGIN_OWN = 0
ORIGIN_BACKUP = 1

_identity = Struct("<QQIB3xQQ16s36s")
_state = Struct("<QQQQ")


class Identity:
    """Who a store is. `actor` is what dots and counter columns are minted under."""

    __slots__ = (
        "boot", "device", "incarnation", "inode", "node", "origin", "previous", "store", "token",
    )

    def __init__(
        self, store: int, node: int, incarnation: int, *, origin: int = ORIGIN_OWN,
        device: int = 0, inode: int = 0, token: bytes = bytes(16), boot: str = "",
        previous: list[int] | None = None,
    ) -> None:
        self.store = store
        self.node = node
        self.incarnation = incarnation
        self.origin = origin
        self.device = device
        self.inode = inode
        self.token = token
        self.boot = boot
        self.previous = previous or []

    @property
    def actor(self) -> int:
        """44 bits of node id, 20 bits of incarnation."""
        return self.node << INCARNATION_BITS | self.incarnation

    def encode(self) -> bytes:
        """The meta row."""
        return _identity.pack(
            self.store, self.node, self.incarnation, self.origin, self.device, self.inode,
            self.token, self.boot.encode("ascii", "replace"),
        ) + pack_u64s(self.previous)

    @classmethod
    def decode(cls, row: bytes) -> Identity:
        """CorruptCellError unless the row has a possible length."""
        if len(row) < _identity.size or (len(row) - _identity.size) % 8:
            raise CorruptCellError("the meta row identity has the wrong length; restore a backup")
        store, node, incarnation, origin, device, inode, token, boot = _identity.unpack_from(row)
        return cls(
            store, node, incarnation, origin=origin, device=device, inode=inode, token=token,
            boot=boot.rstrip(b"\0").decode("ascii", "replace"),
            previous=unpack_u64s(row[_identity.size:]),
        )

    def continues(self, directory: str, tokens: list[str]) -> bool:
        """Whether the data file in `directory` is the one that this identity was written into."""
        status = os.stat(os.path.join(directory, DATA))
        same_file = status.st_ino == self.inode and (
            self.boot != boot_id() or status.st_dev == self.device
        )
        return self.origin == ORIGIN_OWN and same_file and self.token.hex() in tokens

    def renewed(self, directory: str, *, continues: bool) -> Identity:
        """This identity as the first commit of a new opening writes it."""
        status = os.stat(os.path.join(directory, DATA))
        node, incarnation, previous = self.node, self.incarnation, self.previous
        if not continues:
            previous = [*previous, self.actor][-PREVIOUS_MAX:]
            node = _random_node()
            incarnation = (incarnation + 1) % (1 << INCARNATION_BITS) or 1
        return Identity(
            self.store, node, incarnation, device=status.st_dev, inode=status.st_ino,
            token=os.urandom(16), boot=boot_id(), previous=previous,
        )


class State:
    """How far the last commit got."""

    __slots__ = ("applied", "commits", "hlc", "hlc_bound", "live")

    def __init__(self, live: int, hlc: int, hlc_bound: int, commits: int, applied: list[int]
                 ) -> None:
        self.live = live
        self.hlc = hlc
        self.hlc_bound = hlc_bound
        self.commits = commits
        self.applied = applied

    def encode(self) -> bytes:
        """The meta row."""
        return _state.pack(self.live, self.hlc, self.hlc_bound, self.commits) + pack_u64s(
            self.applied
        )

    @classmethod
    def decode(cls, row: bytes) -> State:
        """CorruptCellError unless the row has a possible length."""
        if len(row) < _state.size or (len(row) - _state.size) % 8:
            raise CorruptCellError("the meta row state has the wrong length; restore a backup")
        live, hlc, hlc_bound, commits = _state.unpack_from(row)
        return cls(live, hlc, hlc_bound, commits, unpack_u64s(row[_state.size:]))


def _random_node() -> int:
    return int.from_bytes(os.urandom(8), "little") >> (64 - NODE_BITS) or 1


def first_rows(status: os.stat_result) -> dict[bytes, bytes]:
    """The meta rows of a new, empty store in the data file with that status."""
    identity = Identity(
        int.from_bytes(os.urandom(8), "little"), _random_node(), 1, device=status.st_dev,
        inode=status.st_ino, token=os.urandom(16), boot=boot_id(),
    )
    return {b"identity": identity.encode(), b"state": State(0, 0, 0, 0, []).encode()}


def read_identity(txn: Any) -> Identity:
    """CorruptCellError if it is damaged or not there."""
    row = read_row(txn, b"identity")
    if row is None:
        raise CorruptCellError("the meta row identity is missing; restore a backup")
    return Identity.decode(row)


def read_state(txn: Any) -> State:
    """CorruptCellError if it is damaged or not there."""
    row = read_row(txn, b"state")
    if row is None:
        raise CorruptCellError("the meta row state is missing; restore a backup")
    return State.decode(row)
