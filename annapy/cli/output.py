"""What commands print: one line of JSON, or tables and words.

Owns the two forms of every result and the one place that puts sizes, durations and values into
words. Results go to standard output; progress and refusals to standard error.
"""
from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console

__all__ = ["Output", "duration_words", "jsonable", "percentile", "shortened", "size_words"]

TEXT_MAX = 60  # characters of a value in a table
ARRAY_ITEMS_MAX = 1024  # numbers of an array that JSON lists; larger ones are described


class Output:
    """Where one command's results go."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def line(self, data: Mapping[str, Any]) -> None:
        """Print one line of JSON."""
        sys.stdout.write(json.dumps(jsonable(data), allow_nan=False) + "\n")

    def say(self, text: str) -> None:
        """Print text for a reader; does nothing under `--json`."""
        if not self.as_json:
            sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """Print text that is no result, on standard error; does nothing under `--json`."""
        if not self.as_json:
            sys.stderr.write(text + "\n")

    def refusal(self, error: BaseException) -> None:
        """Say why nothing was done: on one line, and under `--json` as a field as well."""
        text = str(error) or type(error).__name__
        if self.as_json:
            self.line({"error": type(error).__name__, "message": text})
        sys.stderr.write(f"annapy: {text}\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
        """Print a table for a reader; columns whose name ends in `>` are flush right."""
        from rich import box
        from rich.table import Table

        table = Table(
            title=title or None, title_justify="left", box=box.SIMPLE_HEAD,
            show_header=any(column.rstrip(">") for column in columns),
        )
        for column in columns:
            table.add_column(
                column.rstrip(">"), justify="right" if column.endswith(">") else "left",
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(plain(cell) for cell in row))
        self.console().print(table)

    def console(self, *, stderr: bool = False) -> Console:
        """A rich console; on a pipe it is wide enough not to break lines that scripts read."""
        from rich.console import Console

        stream = sys.stderr if stderr else sys.stdout
        return Console(file=stream, width=None if stream.isatty() else 120, highlight=False)


def plain(text: str) -> str:
    """Text that rich prints as it stands: brackets in a key or a value are no markup."""
    from rich.markup import escape

    return escape(text)


def size_words(size: float) -> str:
    """Bytes in words: `17 B`, `1.5 KiB`, `3.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration_words(nanoseconds: float) -> str:
    """Nanoseconds in words: `85 ns`, `3.2 µs`, `1.5 ms`, `2.0 s`."""
    for unit, limit in (("ns", 1000), ("µs", 1000), ("ms", 1000)):
        if nanoseconds < limit:
            return f"{nanoseconds:.0f} {unit}" if unit == "ns" else f"{nanoseconds:.1f} {unit}"
        nanoseconds /= limit
    return f"{nanoseconds:.1f} s"


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of a sorted list lies; 0 for an empty one."""
    if not ascending:
        return 0.0
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def shortened(value: object) -> str:
    """A value on one line of a table."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def jsonable(value: Any) -> Any:
    """A value as JSON has it: bytes as base64, sets as lists, arrays with shape and dtype."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, (bytes, bytearray)):
        import base64

        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): jsonable(x) for key, x in value.items()}
    if isinstance(value, (set, frozenset)):
        return [jsonable(item) for item in sorted(value, key=lambda x: (type(x).__name__, repr(x)))]
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        described = {"dtype": str(value.dtype), "shape": [int(n) for n in value.shape]}
        if value.size <= ARRAY_ITEMS_MAX:
            described["items"] = jsonable(value.tolist())
        return described
    return str(value)
