"""get, set, del, incr, scan: one key or a range of them."""
from __future__ import annotations

import itertools
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from annapy.cli.app import DONE, MISSING, open_store, store_option, verb
from annapy.cli.output import jsonable, shortened

if TYPE_CHECKING:
    from annapy import Store
    from annapy.cli.output import Output

__all__ = ["del_verb", "get_verb", "incr_verb", "scan_verb", "set_verb"]

SCAN_LIMIT = 100


@click.command("get")
@click.argument("key")
@store_option
@verb
def get_verb(out: Output, key: str, target: str) -> int:
    """Print the value of KEY; status 1 if it is not there."""
    missing = object()
    with open_store(target, readonly=True) as store:
        value = store.get(key, missing)
        kind = store.kind(key)
    if value is missing:
        if out.as_json:
            out.line({"key": key, "found": False})
        else:
            out.note(f"annapy: no key {key!r}")
        return MISSING
    if out.as_json:
        out.line({"key": key, "found": True, "kind": kind, "value": value})
    elif isinstance(value, bytes):
        sys.stdout.buffer.write(value)
    else:
        out.say(value if isinstance(value, str) else text_of(value))
    return DONE


def text_of(value: Any) -> str:
    """A value as text: JSON for what JSON can say exactly, else Python's notation."""
    if isinstance(value, (dict, list)) and jsonable(value) == value:
        return json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, (tuple, set, frozenset, dict, list)) else str(value)


def parsed(text: str, *, as_text: bool) -> Any:
    """The value that the user typed: JSON where it is JSON, else the text itself."""
    if as_text:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


@click.command("set")
@click.argument("key")
@click.argument("value")
@click.option("--text", is_flag=True, help="Store VALUE as text even where it is JSON.")
@click.option("--ttl", metavar="DURATION", help="Expire after 30 (seconds), 15m, 2h, 1d.")
@click.option("--tag", metavar="TAG", help="Label for evict(tag=...).")
@click.option("--if-absent", is_flag=True, help="Only if KEY is not there; status 1 if it is.")
@store_option
@verb
def set_verb(
    out: Output, key: str, value: str, text: bool, ttl: str | None, tag: str | None,
    if_absent: bool, target: str,
) -> int:
    """Store VALUE under KEY and wait until it is on disk.

    VALUE is read as JSON ({"a": 1}, 3, true); what is no JSON is text. "-" reads standard input.
    """
    typed = sys.stdin.read() if value == "-" else value
    with open_store(target) as store:
        write = store.add if if_absent else store.set
        done = write(key, parsed(typed, as_text=text), ttl=ttl, tag=tag)
        store.flush()
    stored = done is not False
    if out.as_json:
        out.line({"key": key, "stored": stored})
    elif not stored:
        out.note(f"annapy: {key!r} is there already; nothing was changed")
    return DONE if stored else MISSING


@click.command("del")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@store_option
@verb
def del_verb(out: Output, keys: tuple[str, ...], target: str) -> int:
    """Delete each KEY; status 1 if none of them was there."""
    with open_store(target) as store:
        deleted = sum(store.delete(key) for key in keys)
        store.flush()
    if out.as_json:
        out.line({"deleted": deleted})
    else:
        out.say(f"{deleted} deleted")
    return DONE if deleted else MISSING


@click.command("incr", context_settings={"ignore_unknown_options": True})
@click.argument("key")
@click.argument("amount", type=int, default=1)
@store_option
@verb
def incr_verb(out: Output, key: str, amount: int, target: str) -> int:
    """Add AMOUNT (1, may be negative) to the counter KEY and print what it is then."""
    with open_store(target) as store:
        value = store.incr(key, amount)
        store.flush()
    if out.as_json:
        out.line({"key": key, "value": value})
    else:
        out.say(str(value))
    return DONE


@click.command("scan")
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(min=0), default=SCAN_LIMIT, show_default=True,
              help="Stop after so many keys; 0 goes through all.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@store_option
@verb
def scan_verb(out: Output, prefix: str, limit: int, reverse: bool, target: str) -> int:
    """List keys that start with PREFIX, sorted, with their kind and value."""
    with open_store(target, readonly=True) as store:
        found = store.scan(prefix, reverse=reverse, limit=limit + 1 if limit else None)
        rows = [(key, kind_of(store, key), value) for key, value in found]
    more = bool(limit) and len(rows) > limit
    rows = list(itertools.islice(rows, limit or None))
    if out.as_json:
        items = [{"key": key, "kind": kind, "value": value} for key, kind, value in rows]
        out.line({"count": len(items), "more": more, "items": items})
    elif rows:
        out.table(("key", "kind", "value"), [(k, kind, shortened(v)) for k, kind, v in rows])
        if more:
            out.note(f"There are more than {limit} keys; --limit 0 lists all of them.")
    else:
        out.note(f"annapy: no key starts with {prefix!r}")
    return DONE if rows else MISSING


def kind_of(store: Store, key: str) -> str:
    """The kind of a key that a scan has just returned, which may be gone by now."""
    return store.kind(key) or "gone"
