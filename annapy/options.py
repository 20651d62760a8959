"""Opening: where a store's target and options come from, and what each of them may be.

Owns    the parsing of targets, sizes, durations and truth values; the precedence of the places an
        option may come from; the record of options that belongs to a directory.
Threads every function is pure but for reading the environment, /proc and the configuration file.

Invariants
    precedence: keyword > URL query > ANNAPY_* environment > configuration file > default
    an option is checked before anything is opened or created
    explicit[name] is set  <=>  the value did not come from the default
    a configuration file is read only if named: never one found in the working directory
"""
from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import timedelta
    from typing import Any

__all__ = [
    "DIRECTORY_OPTIONS",
    "Options",
    "agree_with_record",
    "default_capacity",
    "duration",
    "duration_ms",
    "format_size",
    "memory_limit",
    "parse_ack",
    "resolve",
    "size",
]

CAPACITY_DEFAULT_MAX = 1 << 30
CAPACITY_MIN = 1 << 20
SHARDS_MAX = 256
DURATION_S_MAX = 100 * 366 * 86400.0   # a century: longer is "permanent", said by leaving it out
CONFIG_SIZE_MAX = 1 << 20

# Longest suffix first within a family does not matter: units are looked up whole.
_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 10**3,
    "m": 1 << 20, "mib": 1 << 20, "mb": 10**6,
    "g": 1 << 30, "gib": 1 << 30, "gb": 10**9,
    "t": 1 << 40, "tib": 1 << 40, "tb": 10**12,
}
_DURATION_UNITS = {
    "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0,
    "h": 3600.0, "d": 86400.0, "w": 604800.0,
}


def size(value: object, name: str = "size") -> int:
    """Bytes from an int or from text such as ``"512MiB"``, ``"4GB"``, ``"65536"``.

    KiB, MiB, GiB, TiB (and K, M, G, T) are powers of 1024; kB, MB, GB, TB powers of 1000; case does
    not matter. Raises TypeError for another type, ValueError for text that is not a size or is
    not positive.

    >>> size("512MiB") == 512 * 2**20
    True
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{name} must be bytes as an int or text such as '512MiB', "
                        f"not {type(value).__name__}")
    if isinstance(value, int):
        count = value
    else:
        pairs = _numbers_and_units(value)
        unit = _SIZE_UNITS.get(pairs[0][1].lower()) if len(pairs) == 1 else None
        if unit is None:
            raise ValueError(f"{name}={value!r} is not a size: write a number and a unit, "
                             "such as '512MiB' or '4GB'")
        count = int(pairs[0][0] * unit)
    if count <= 0:
        raise ValueError(f"{name}={value!r} must be more than 0 bytes")
    return count


def duration(value: float | str | timedelta | object, name: str = "duration") -> float:
    """Seconds from a number, a ``timedelta`` or text such as ``"15m"``, ``"10ms"``, ``"1h30m"``.

    Raises TypeError for another type, ValueError for text that is no duration, for NaN, for zero,
    for a negative one and for one over a century.

    >>> duration("15m"), duration(2), duration("1h30m")
    (900.0, 2.0, 5400.0)
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be seconds, a timedelta or text such as '15m', not bool")
    if isinstance(value, (int, float)):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = 0.0
        pairs = _numbers_and_units(value)
        for number, unit in pairs:
            scale = _DURATION_UNITS.get(unit.lower())
            if scale is None or (unit == "" and len(pairs) > 1):
                pairs = []
                break
            seconds += number * scale
        if not pairs:
            raise ValueError(f"{name}={value!r} is not a duration: write seconds as a number, or "
                             "text such as '10ms', '30s', '15m', '1h30m', '7d'")
    elif hasattr(value, "total_seconds"):
        seconds = float(value.total_seconds())
    else:
        raise TypeError(f"{name} must be seconds, a timedelta or text such as '15m', "
                        f"not {type(value).__name__}")
    if not 0.0 < seconds <= DURATION_S_MAX:
        raise ValueError(f"{name}={value!r} must be more than 0 and at most a century; "
                         "leave it out (or None) for no limit")
    return seconds


def duration_ms(value: object, name: str = "ttl") -> int:
    """The same in whole milliseconds, rounded up, so that it is never 0."""
    seconds = duration(value, name)
    whole = int(seconds * 1000.0)
    return whole if whole and whole >= seconds * 1000.0 else whole + 1


def _numbers_and_units(text: str) -> list[tuple[float, str]]:
    """``"1h30m"`` as [(1.0, "h"), (30.0, "m")]; an empty list for text of another form."""
    pairs: list[tuple[float, str]] = []
    rest = text.strip().replace("_", "")
    while rest:
        at = 0
        while at < len(rest) and rest[at] in "0123456789.":
            at += 1
        end = at
        while end < len(rest) and rest[end] not in "0123456789.":
            end += 1
        try:
            number = float(rest[:at])
        except ValueError:
            return []
        pairs.append((number, rest[at:end].strip()))
        rest = rest[end:]
    return pairs


def format_size(count: int) -> str:
    """Bytes for people, exact where a binary unit divides them.

    >>> format_size(512 * 2**20), format_size(1500)
    ('512MiB', '1500B')
    """
    for unit, scale in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale and count % scale == 0:
            return f"{count // scale}{unit}"
    return f"{count}B"


def _truth(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("", "0", "false", "no", "off"):
            return False
        raise ValueError(f"{name}={value!r} is neither true nor false: write 1 or 0")
    raise TypeError(f"{name} must be a bool, not {type(value).__name__}")


def _shards(value: object, name: str) -> int:
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 1 <= value <= SHARDS_MAX:
        raise ValueError(f"{name}={value} must be from 1 to {SHARDS_MAX}; leave it out for one "
                         "that suits the machine")
    return value


def _evict(value: object, name: str) -> str | None:
    if value is None or value in ("", "none", "None"):
        return None
    if value == "sieve":
        return "sieve"
    raise ValueError(f"{name}={value!r} is not known: 'sieve' makes the store a cache, None (the "
                     "default) never loses data")


def _capacity(value: object, name: str) -> int:
    count = size(value, name)
    if count < CAPACITY_MIN:
        raise ValueError(f"{name}={value!r} is under {format_size(CAPACITY_MIN)}, the least that "
                         "a store needs for its own tables")
    return count


def parse_ack(value: object, name: str = "ack") -> str | int:
    """``"memory"``, ``"disk"``, ``"majority"``, ``"upstream"`` or a count of owners, checked."""
    if isinstance(value, str):
        word = value.strip()
        if word in ("memory", "disk", "majority", "upstream"):
            return word
        if word.isdigit():
            value = int(word)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64:
        return value
    raise ValueError(f"{name}={value!r} is not known: 'memory', 'disk', 'majority', 'upstream' or "
                     "a number of owners from 1 to 64")


# name: (parser, belongs to the directory). Order is that of the documentation.
_PARSERS: dict[str, tuple[Callable[[Any, str], Any], bool]] = {
    "share": (_truth, False),
    "capacity": (_capacity, True),
    "disk_capacity": (size, True),
    "evict": (_evict, True),
    "shards": (_shards, True),
    "commit_every": (duration, True),
    "ack": (parse_ack, True),
    "ttl": (duration, True),
    "readonly": (_truth, False),
    "allow_pickle": (_truth, False),
    "timeout": (duration, False),
}
DIRECTORY_OPTIONS = tuple(name for name, (_, belongs) in _PARSERS.items() if belongs)
_NULLABLE = ("capacity", "disk_capacity", "evict", "shards", "ttl")
_DEFAULTS: dict[str, Any] = {
    "share": False, "capacity": None, "disk_capacity": None, "evict": None, "shards": None,
    "commit_every": 0.010, "ack": "memory", "ttl": None, "readonly": False, "allow_pickle": False,
    "timeout": 5.0,
}


class Options:
    """What `open` was asked for, checked and with every default filled in but `capacity`.

    `path` is the absolute directory, or None for a store in memory. `explicit` maps the name of
    each option that somebody gave to where it came from, in words for error messages.
    """

    __slots__ = ("path", "explicit", *_PARSERS)

    path: str | None
    explicit: dict[str, str]
    share: bool
    capacity: int | None
    disk_capacity: int | None
    evict: str | None
    shards: int | None
    commit_every: float
    ack: str | int
    ttl: float | None
    readonly: bool
    allow_pickle: bool
    timeout: float

    def __init__(self) -> None:
        self.path = None
        self.explicit = {}
        for name, value in _DEFAULTS.items():
            setattr(self, name, value)

    def take(self, given: Mapping[str, Any], source: str, prefix: str = "") -> None:
        """Set what is given and not yet set by a place of higher precedence."""
        for name, value in given.items():
            if name not in _PARSERS:
                raise ValueError(_unknown_option(name, source))
            if name in self.explicit or (value is None and name not in _NULLABLE):
                continue
            parser, _ = _PARSERS[name]
            label = prefix + (name.upper() if prefix else name)
            setattr(self, name, None if value is None else parser(value, label))
            self.explicit[name] = source

    def url(self) -> str | None:
        """What opens the same directory, with the options not recorded there; None in memory."""
        if self.path is None:
            return None
        query = "&".join(f"{name}=1" for name in ("readonly", "allow_pickle")
                         if getattr(self, name))
        return f"file://{_quote(self.path)}" + (f"?{query}" if query else "")


def _quote(path: str) -> str:
    if all(c.isascii() and (c.isalnum() or c in "/-_.~") for c in path):
        return path
    from urllib.parse import quote
    return quote(os.fsencode(path))


def _unknown_option(name: str, source: str) -> str:
    from difflib import get_close_matches
    near = get_close_matches(name, _PARSERS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_PARSERS)}"
    return f"unknown option {name!r} in {source}; {hint}"


def resolve(target: str | os.PathLike[str] | None, keywords: Mapping[str, Any],
            config: str | os.PathLike[str] | None = None) -> Options:
    """Every source of options read in the order of precedence.

    `keywords` holds only what the caller gave. Raises ValueError or TypeError for anything that
    is not an option, NodeUnavailable for a mode that this version does not have, OSError where the
    configuration file cannot be read.
    """
    options = Options()
    options.take(keywords, "the call")
    environ = os.environ
    file_options: dict[str, Any] = {}
    config_path = os.fspath(config) if config is not None else environ.get("ANNAPY_CONFIG") or None
    if config_path is not None:
        file_options = _read_config(config_path)
    file_url = file_options.pop("url", None)
    if target is None:
        target = environ.get("ANNAPY_URL") or file_url
    scheme, path, query = _split_target(target)
    if query:
        options.take(query, "the URL")
    given = {name: environ[key] for name in _PARSERS
             if (key := "ANNAPY_" + name.upper()) in environ and environ[key] != ""}
    if given:
        options.take(given, "the environment", "ANNAPY_")
    if file_options:
        options.take(file_options, str(config_path))
    _set_place(options, scheme, path)
    _check(options)
    return options


def _split_target(target: object) -> tuple[str, str | None, dict[str, str]]:
    """(scheme, path, query) of a directory or URL."""
    if target is None:
        return "mem", None, {}
    if not isinstance(target, str):
        try:
            target = os.fsdecode(target)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError("the target must be a directory (str or PathLike), a URL such as "
                            f"'mem://' or 'file:///dir', or None, not {type(target).__name__}"
                            ) from None
        return "file", target, {}
    if "://" not in target:
        if not target:
            raise ValueError("the target is empty: name a directory, or leave it out for a store "
                             "in memory")
        return "file", target, {}
    from urllib.parse import parse_qsl, unquote, urlsplit
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "mem":
        if parts.netloc or parts.path not in ("", "/"):
            raise ValueError(f"{target!r}: a store in memory has no name; write 'mem://'")
        return "mem", None, query
    if parts.scheme in ("file", "shm"):
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError(f"{target!r}: write three slashes and an absolute directory, "
                             f"'{parts.scheme}:///var/lib/app', or pass the directory as it is")
        return parts.scheme, unquote(parts.path, "utf-8", "surrogateescape"), query
    if parts.scheme == "anna":
        return "anna", None, {}
    raise ValueError(f"{target!r}: unknown scheme {parts.scheme!r}; known are mem://, file:///dir, "
                     "shm:///dir and anna://host:port")


def _set_place(options: Options, scheme: str, path: str | None) -> None:
    if scheme == "anna":
        from annapy.errors import NodeUnavailable
        raise NodeUnavailable("anna:// stores need the cluster mode, which this version of annapy "
                              "does not have; open a directory or 'mem://' instead")
    if scheme == "shm":
        options.share = True
    if path is not None:
        options.path = os.path.abspath(path)
        if os.path.exists(options.path) and not os.path.isdir(options.path):
            raise NotADirectoryError(f"{options.path!r} is not a directory: a store lives in a "
                                     "directory of its own")


def _check(options: Options) -> None:
    """What no single option can tell."""
    if options.share:
        if options.path is None:
            raise ValueError("share=True needs a directory: the processes that name the same one "
                             "meet in it")
        from annapy.errors import NodeUnavailable
        raise NodeUnavailable("share=True needs the host mode, which this version of annapy does "
                              f"not have; open {options.path!r} from one process, without share")
    if options.readonly and options.path is None:
        raise ValueError("readonly=True needs a directory: there is nothing to read in a new "
                         "store in memory")
    if options.path is None and options.disk_capacity is not None:
        raise ValueError("disk_capacity needs a directory; a store in memory has `capacity` only")
    check_ack(options.ack, options.path is not None)


def check_ack(ack: str | int, durable: bool) -> None:
    """ValueError if a private store, with a directory or without, cannot give this acknowledgement.

    A private store is one owner: "majority" and 1 mean its own disk.
    """
    if ack == "memory" or (durable and (ack in ("disk", "majority") or ack == 1)):
        return
    if ack == "upstream" or (isinstance(ack, int) and ack > 1):
        raise ValueError(f"ack={ack!r} needs other nodes, and this is a private store: use "
                         "'memory'" + (" or 'disk'" if durable else ""))
    raise ValueError(f"ack={ack!r} needs a directory, and this store is in memory: open a "
                     "directory, or use 'memory'")


def _read_config(path: str) -> dict[str, Any]:
    """The options in a TOML or JSON file: its [annapy] table, or its top level without one."""
    with open(path, "rb") as file:
        data = file.read(CONFIG_SIZE_MAX + 1)
    if len(data) > CONFIG_SIZE_MAX:
        raise ValueError(f"configuration {path!r} is over {format_size(CONFIG_SIZE_MAX)}: is it "
                         "the right file?")
    table: Any
    try:
        if path.endswith(".json"):
            import msgspec
            table = msgspec.json.decode(data)
        else:
            try:
                import tomllib  # type: ignore[import-not-found,unused-ignore]
            except ImportError:
                raise ValueError(f"configuration {path!r}: reading TOML needs Python 3.11; write "
                                 "the file as JSON and name it *.json") from None
            table = tomllib.loads(data.decode("utf-8"))
    except ValueError as error:
        if str(error).startswith("configuration"):
            raise
        raise ValueError(f"configuration {path!r} is not valid: {error}") from None
    if isinstance(table, dict) and isinstance(table.get("annapy"), dict):
        table = table["annapy"]
    if not isinstance(table, dict):
        raise TypeError(f"configuration {path!r} must hold a table of options")
    return dict(table)


# --- memory -----------------------------------------------------------------------------------


def _read_int(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            text = file.read(64).strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _cgroup_folders() -> list[tuple[str, str]]:
    """(folder, file that holds the limit) for this process's memory cgroups, v2 and v1."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(65536).splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and controllers == "":
            folders.append(("/sys/fs/cgroup" + path, "memory.max"))
        elif "memory" in controllers.split(","):
            folders.append(("/sys/fs/cgroup/memory" + path, "memory.limit_in_bytes"))
    return folders


def memory_limit() -> int:
    """Bytes that this process may use: the least of the machine's memory and every cgroup's limit.

    In a container the path in /proc/self/cgroup may be the host's and the mount only the
    container's own part of it, so each folder is tried together with all those above it.
    """
    try:
        limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        limit = 4 << 30
    for start, name in _cgroup_folders():
        folder = start
        while len(folder) >= len("/sys/fs/cgroup"):
            found = _read_int(f"{folder}/{name}")
            if found is not None and 0 < found < limit:
                limit = found
            folder = folder.rpartition("/")[0]
    return limit


def default_capacity() -> int:
    """A quarter of the memory limit, at most 1 GiB."""
    return max(CAPACITY_MIN, min(memory_limit() // 4, CAPACITY_DEFAULT_MAX))


def effective_capacity(asked: int | None) -> int:
    """Bytes of memory to use: as asked, but never over half of what the process may have."""
    if asked is None:
        return default_capacity()
    return max(CAPACITY_MIN, min(asked, memory_limit() // 2))


# --- the directory's record -------------------------------------------------------------------


def agree_with_record(options: Options, record: Mapping[str, Any]) -> dict[str, Any]:
    """Fill `options` from the directory's record; the record to keep from now on.

    An option given now must equal the recorded one, else ValueError naming both; one given for
    the first time is added to the record; one not given is taken from it.
    """
    kept = {name: record[name] for name in DIRECTORY_OPTIONS if name in record}
    for name in DIRECTORY_OPTIONS:
        value = getattr(options, name)
        if name not in options.explicit:
            if name in kept:
                setattr(options, name, kept[name])
                options.explicit[name] = "the directory's record"
        elif name not in kept:
            kept[name] = value
        elif kept[name] != value:
            raise ValueError(
                f"{name}={_shown(name, value)} from {options.explicit[name]} differs from "
                f"{name}={_shown(name, kept[name])}, which the store in {options.path!r} was "
                "opened with before; leave the option out to use that, or back the store up and "
                "restore it into a new directory to change it")
    return kept


def _shown(name: str, value: object) -> str:
    if name in ("capacity", "disk_capacity") and isinstance(value, int):
        return format_size(value)
    return f"{value}s" if isinstance(value, float) else repr(value)
