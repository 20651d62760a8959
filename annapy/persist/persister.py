"""Group commit: dirty cells become durable together, in consistent cuts, by who needs it first.

Owns     the commit lock, the background thread, the identity of this opening, the error that is
         standing; through them the environment and the owner lock.
Callers  the engine (`load`, `wake`), the store (everything else), from any thread.

    wake()          the first cell has become dirty   -> the thread commits within `commit_every_s`
    sync()          everything applied before the call is durable when it returns
    background      waits on a lock without a timeout: an idle store uses no CPU

Invariants
    one commit at a time; commits are numbered when they start
    a caller's changes are covered by every commit that starts after its call
    a commit is one LMDB transaction: cells, chunks, deadlines, live count, tickets, HLC, identity
    cut.done(True) is called only after LMDB has synced; after any failure cut.done(False)
    a failed commit loses nothing: its cells are dirty again, and it is retried, by the thread with
        growing pauses up to RETRY_MAX_S, or at once by the next sync
    no thread exists before the first wake

Joining. Callers of sync queue on the commit lock. Whoever gets it first commits; the others, on
getting it in turn, find that a commit that started after their call is done, and take its outcome.
So a caller alone commits in its own thread, without a hand-over, and eight callers share one sync.
Source: flat combining (Hendler, Incze, Shavit, Tzafrir, SPAA 2010), with the lock as its queue.
"""
from __future__ import annotations

import os
import threading
import time

from annapy.errors import AckTimeout, AnnapyError, CapacityError, ReadOnlyError
from annapy.persist import recover
from annapy.persist.env import (
    DATA,
    MAP_SIZE,
    Environment,
    create,
    lmdb_module,
    read_row,
    refuse_foreign,
)
from annapy.persist.faults import translate
from annapy.persist.owner import Owner
from annapy.persist.reader import Reader
from annapy.persist.records import seal
from annapy.persist.writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from annapy.persist.check import Report

__all__ = ["Persister"]

COMMIT_EVERY_S = 0.010
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 5.0
CLOSE_TIMEOUT_S = 10.0
HLC_AHEAD = 250 << 16          # HLC units: stamps handed out between two commits, clock set back
RESERVE_MIN = 4 << 20          # room above disk_capacity, so that a full store can still delete
READER_CHECK_EVERY = 1024      # commits


class Persister:
    """The disk tier of one open store.

    Recovered facts: `identity` (whose `actor` the engine mints under), `state` (live keys, HLC
    bound, tickets as of the last commit), `continues` (False: a new identity was taken), `created`,
    `options` (the store's own row, b"" at first). Attach the engine before the first wake.
    """

    def __init__(
        self, env: Environment, owner: Owner | None, *, commit_every_s: float,
        disk_capacity: int | None, created: bool,
    ) -> None:
        self._env = env
        self._owner = owner
        self._reader = Reader(env)
        self.load = self._reader.load
        self.scan = self._reader.scan
        self.page = self._reader.page
        self.expired = self._reader.expired
        self.count = self._reader.count
        self.stored_keys = self._reader.stored_keys
        self.path = env.path
        self.readonly = owner is None
        self.created = created
        self._capacity = disk_capacity
        self._commit_every_s = commit_every_s
        self._collect: Callable[[], Any] | None = None
        self._recover()

        self._busy = threading.Lock()          # held by whoever commits
        self._committer = 0                    # its thread
        self._started = 0
        self._settled = 0
        self._error: AnnapyError | None = None   # of the last commit, None if it went through
        self._dirty = False
        self._thread: threading.Thread | None = None
        self._teacher: threading.Thread | None = None
        self._engine: Any = None
        self._signal = threading.Lock()        # released: something is dirty
        self._signal.acquire()
        self._stop = threading.Lock()          # released: close() waits for the thread
        self._stop.acquire()
        self._closing = False                  # no more pauses, no thread
        self._closed = False
        self._counts = {"commits": 0, "errors": 0, "puts": 0, "deletes": 0}
        self._commit_s = 0.0

    # --- opening ----------------------------------------------------------------------------

    @classmethod
    def open(
        cls, directory: str, *, readonly: bool = False, disk_capacity: int | None = None,
        commit_every_s: float = COMMIT_EVERY_S,
    ) -> Persister:
        """Open the store in `directory`, or make one there; O(1), whatever it holds.

        `disk_capacity`: bytes that the trees may take, None for no limit but the disk's.
        `commit_every_s`: how long a change may stay in memory only. With `readonly` nothing is
        written and an owner elsewhere is no obstacle. Blocks for the disk only.
        Raises StoreLocked (names the owner), FormatError (not a store, a newer one),
        CorruptCellError (damaged), ReadOnlyError (permissions), CapacityError (no room).
        """
        directory = os.path.abspath(directory)
        if readonly:
            env = Environment.open(directory, readonly=True)
            return cls._finish(env, None, commit_every_s, None, created=False)
        _make_directory(directory)
        if not os.path.exists(os.path.join(directory, DATA)):
            refuse_foreign(directory)
        owner = Owner.acquire(directory)
        try:
            created = not os.path.exists(os.path.join(directory, DATA))
            if created:
                owner.refuse_if_lost()
                create(directory, recover.first_rows)
            env = Environment.open(directory, map_size=_map_size(disk_capacity))
            return cls._finish(env, owner, commit_every_s, disk_capacity, created=created)
        except BaseException:
            owner.release()
            raise

    @classmethod
    def _finish(
        cls, env: Environment, owner: Owner | None, commit_every_s: float,
        disk_capacity: int | None, *, created: bool,
    ) -> Persister:
        try:
            if env.small:
                from annapy.persist.check import refuse_damaged

                refuse_damaged(env)
            return cls(
                env, owner, commit_every_s=commit_every_s, disk_capacity=disk_capacity,
                created=created,
            )
        except BaseException:
            env.close()
            raise

    def _recover(self) -> None:
        """Read the meta rows; settle who this opening is. Nothing is written but DIR/owner."""
        env, owner = self._env, self._owner
        try:
            with env.snapshot() as txn:
                self.identity = recover.read_identity(txn)
                self.state = recover.read_state(txn)
                self.options = read_row(txn, b"options") or b""
                self._writer = Writer(env, txn)
            if owner is None:
                self.continues = True
                self._pending: dict[bytes, bytes] = {}
                return
            env.lmdb.reader_check()        # slots of readers that were killed keep pages in use
            tokens = owner.tokens()
            self.continues = self.created or self.identity.continues(env.path, tokens)
            old = self.identity
            self.identity = old.renewed(env.path, continues=self.continues)
            # An old token that was not proven must not be vouched for: the next opening, should
            # this one never commit, has to find the same.
            known = [old.token] if self.continues else []
            owner.announce(self.identity.store, [*known, self.identity.token])
            self._pending = {b"identity": self.identity.encode()}
        except lmdb_module().Error as error:
            raise translate(error, env.path, "opening the store") from error

    def attach(self, collect: Callable[[], Any], engine: Any = None) -> None:
        """`collect()` gives the next cut. Call once, before the first wake.

        `engine`, if given, is taught which keys are on disk once many look-ups have missed.
        """
        self._collect = collect
        if engine is not None:
            self._engine = engine
            self._reader.on_misses = self._start_teacher

    def _start_teacher(self) -> None:
        with self._start_lock:
            if not self._closing:
                self._teacher = threading.Thread(
                    target=self._teach, name="annapy-filter", daemon=True
                )
                self._teacher.start()

    def _teach(self) -> None:
        """Fill the engine's filter over cold keys: every key of the store, a page at a time."""
        engine, after = self._engine, None
        try:
            engine.cold_begin(self._reader.rows())
            while not self._closing:
                keys, after = self._reader.stored_keys(after)
                engine.cold_add(keys)
                if after is None:
                    engine.cold_ready()
                    return
                time.sleep(0)              # others first: nothing waits for this
        except AnnapyError:
            return                         # without a filter every miss asks the disk, as before

    def limit(self, disk_capacity: int | None, commit_every_s: float) -> None:
        """Set what the store's own row decides, which open() could not know before it was read."""
        self._capacity = disk_capacity
        self._commit_every_s = commit_every_s

    def set_options(self, options: bytes) -> None:
        """Replace the store's own meta row; it goes with the next commit, or with closing."""
        if self.readonly:
            raise ReadOnlyError(f"{self.path!r} was opened with readonly=True")
        self.options = options
        self._pending[b"options"] = options

    # --- committing -------------------------------------------------------------------------

    def wake(self) -> None:
        """Something is dirty that was not. Cheap, never waits; the first one starts the thread."""
        if not self._env.usable:
            return                         # in a forked child; whoever asks for durability is told
        self._dirty = True
        if self._thread is None:
            self._start()
        _free(self._signal)

    def commit(self) -> None:
        """sync() without a limit of time."""
        self.sync()

    def sync(self, timeout: float | None = None) -> None:
        """Make everything durable that was applied before the call.

        Commits in this thread if no commit is running, else joins the next one. `timeout` seconds
        bound the wait for others (AckTimeout: applied, not yet durable); the disk takes the time
        that it takes. Raises what made the covering commit fail; its changes stay pending.
        """
        if not self._env.usable:
            self._env.begin()              # raises what is the matter
        if self.readonly:
            return
        number = self._started
        if not self._busy.acquire(False):
            self._wait_for_turn(timeout)
        try:
            if self._settled > number:     # a commit that began after this call is done
                if self._error is not None:
                    raise _again(self._error)
                return
            self._commit()
        finally:
            self._busy.release()

    def _wait_for_turn(self, timeout: float | None) -> None:
        if self._committer == threading.get_ident():
            raise AnnapyError(
                "this thread is committing already (a signal handler ran in the middle of it); "
                "flush from another thread, or after the handler has returned"
            )
        if not self._busy.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise AckTimeout(
                f"applied, but not on disk within {timeout} s: another commit is still running; "
                "it will be committed in the background", level="disk",
            )

    def _commit(self) -> None:
        """One commit, with the lock held."""
        if not self._env.usable:
            self._env.begin()
        begun = time.perf_counter()
        self._committer = threading.get_ident()
        self._started = number = self._started + 1
        self._dirty = False                # before the cut: what comes later wakes again
        cut = None
        try:
            cut = self._collect() if self._collect is not None else None
            self._write(cut)
        except BaseException as error:
            self._dirty = True
            self._counts["errors"] += 1
            self._error = translate(error, self.path, "committing")
            if cut is not None:
                cut.done(False)
            if isinstance(error, Exception):
                raise self._error from error
            raise
        else:
            self._error = None
            self._counts["commits"] += 1
            if cut is not None:
                cut.done(True)
        finally:
            self._settled = number
            self._committer = 0
            self._commit_s = time.perf_counter() - begun

    def _write(self, cut: Any) -> None:
        """The cut and the pending meta rows, in one transaction."""
        pending = dict(self._pending)
        if not (pending or (cut is not None and (cut.puts or cut.deletes or cut.deadlines))):
            return
        try:
            state = self._transact(cut, pending)
        except lmdb_module().PanicError:
            self._env.reopen()             # a meta page could not be written: LMDB wants that
            state = self._transact(cut, pending)
        if state is not None:
            self.state = state
        for name, row in pending.items():
            if self._pending.get(name) is row:
                del self._pending[name]
        if cut is not None:
            self._counts["puts"] += len(cut.puts)
            self._counts["deletes"] += len(cut.deletes)
        if self._counts["commits"] % READER_CHECK_EVERY == READER_CHECK_EVERY - 1:
            self._env.lmdb.reader_check()

    def _transact(self, cut: Any, pending: dict[bytes, bytes]) -> recover.State | None:
        """One transaction; the state that it leaves, if the cut had any."""
        env, writer = self._env, self._writer
        state = None
        try:
            with env.begin(write=True) as txn:
                used = env.used_bytes(txn) if self._capacity is not None else 0
                if cut is not None:
                    writer.write(txn, cut)
                    state = self._next_state(cut)
                    txn.put(b"state", seal(b"state", state.encode()))
                for name, row in pending.items():
                    txn.put(name, seal(name, row))
                self._refuse_overfull(txn, used)
                writer.recount(txn)
        except BaseException:
            self._recount_after_failure()
            raise
        return state

    def _recount_after_failure(self) -> None:
        """The rows that the aborted transaction had counted are not there."""
        try:
            with self._env.snapshot() as txn:
                self._writer.recount(txn)
        except Exception:
            return                         # the next commit runs into the same and reports it

    def _next_state(self, cut: Any) -> recover.State:
        """The bound is ahead of the cut by what may be handed out before the next one."""
        bound = cut.hlc if self._closing else max(cut.hlc + HLC_AHEAD, self.state.hlc_bound)
        return recover.State(cut.live, cut.hlc, bound, self.state.commits + 1, list(cut.applied))

    def _refuse_overfull(self, txn: Any, used_before: int) -> None:
        """More than `disk_capacity`, and growing: then not. What shrinks is always let through."""
        if self._capacity is None:
            return
        used = self._env.used_bytes(txn)
        if used > self._capacity and used > used_before:
            raise CapacityError(
                f"committing in {self.path!r}: the store would take {used} bytes on disk, "
                f"disk_capacity is {self._capacity}. What was committed is safe, the rest is kept "
                "in memory; delete keys, or open the store with a larger disk_capacity=",
                wanted_bytes=used, capacity_bytes=self._capacity,
            )

    # --- the background thread --------------------------------------------------------------

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(
                    target=self._run, name=f"annapy-persist-{os.path.basename(self.path)}",
                    daemon=True,
                )
                self._thread.start()

    _start_lock = threading.Lock()         # one for all stores: held for one thread's start

    def _run(self) -> None:
        while True:
            self._signal.acquire()         # no timeout: an idle store uses no CPU
            pause_s = self._commit_every_s
            while not self._closing:
                self._stop.acquire(timeout=pause_s)
                if self._closing or not self._env.usable or not self._dirty:
                    break
                try:
                    self.sync()
                    break
                except Exception:          # kept in `_error`, counted, tried again
                    pause_s = min(max(2 * pause_s, RETRY_FIRST_S), RETRY_MAX_S)
            if self._closing or not self._env.usable:
                return

    # --- the rest ---------------------------------------------------------------------------

    def stats(self) -> dict[str, object]:
        """Counters since opening, the standing error, and what the disk holds. O(1)."""
        return {
            **self._counts,
            "last_error": None if self._error is None else str(self._error),
            "pending": self._dirty or self._committer != 0,
            "last_commit_s": self._commit_s,
            "live": self.state.live,
            "file_bytes": self._env.file_bytes(),
            "actor": self.identity.actor,
            "incarnation": self.identity.incarnation,
            "continues": self.continues,
        }

    def backup(
        self, path: str, progress: Callable[[int, int], None] | None = None
    ) -> Report:
        """Commit, then write a verified copy of the store to the new file `path`; see backup."""
        from annapy.persist.backup import backup

        self.sync()
        return backup(self._env, path, progress)

    def close(self, timeout: float = CLOSE_TIMEOUT_S) -> None:
        """Commit what is pending, then let go of everything. Again is fine.

        Blocks for at most `timeout` seconds for a commit that is running, and for its own.
        If the last commit fails, its error is raised after everything was closed.
        """
        if self._closed or not self._env.usable:     # or a forked child's copy
            return
        self._closing = True
        _free(self._stop)
        _free(self._signal)
        thread = self._thread
        for running in (thread, self._teacher):
            if running is not None and running is not threading.current_thread():
                running.join(timeout)
        if not self._busy.acquire(timeout=timeout):
            raise AckTimeout(
                f"closing {self.path!r}: a commit has been running for over {timeout} s; "
                "the store stays open", level="disk",
            )
        try:
            if self._owner is not None and (self._dirty or self._pending_matters()):
                self._commit()
        finally:
            self._closed = True
            self._busy.release()
            self._env.close()
            if self._owner is not None:
                self._owner.release()

    def _pending_matters(self) -> bool:
        """A new identity that nothing was minted under need not be written."""
        return b"options" in self._pending


def _free(lock: threading.Lock) -> None:
    """Release a lock that is used as a signal; it may have been signalled already."""
    try:
        lock.release()
    except RuntimeError:
        return


def _again(error: AnnapyError) -> AnnapyError:
    """The same error for another caller: an exception object belongs to one traceback."""
    again = type(error)(str(error))
    again.__cause__ = error
    return again


def _make_directory(directory: str) -> None:
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    except OSError as error:
        raise translate(error, directory, "making the directory") from error


def _map_size(disk_capacity: int | None) -> int:
    if disk_capacity is None:
        return MAP_SIZE
    if disk_capacity <= 0:
        raise ValueError(f"disk_capacity must be above zero, got {disk_capacity}")
    size = disk_capacity + max(RESERVE_MIN, disk_capacity // 8)
    return (size + 65535) & ~65535
