"""The command line as a script sees it: exit statuses, one line of JSON, no tracebacks."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import annapy
from annapy.cli.app import VERBS, cli
from annapy.cli.output import duration_words, jsonable, percentile, size_words


def annapy_command(*words: str, store: Path | None = None, stdin: str | None = None) -> Result:
    where = ["--store", str(store)] if store is not None else []
    return CliRunner(env={"ANNAPY_URL": None}).invoke(cli, [*words, *where], input=stdin)


def line_of(result: Result) -> dict[str, Any]:
    assert result.stdout.count("\n") == 1, result.output
    data = json.loads(result.stdout)
    assert isinstance(data, dict)
    return data


@pytest.fixture
def store(tmp_path: Path) -> Path:
    place = tmp_path / "store"
    with annapy.open(place) as s:
        s["user:1"] = {"name": "Ada"}
        s["user:2"] = "Grace"
        s["raw"] = b"\x00\xff"
        s.counter("hits").add(41)
        s.orset("tags").add("b")
        s.orset("tags").add("a")
    return place


def test_help_names_every_verb() -> None:
    result = annapy_command("--help")
    assert result.exit_code == 0
    for name in VERBS:
        assert f"\n  {name} " in result.output
        inner = annapy_command(name, "--help")
        assert inner.exit_code == 0
        assert "--json" in inner.output


def test_get(store: Path) -> None:
    result = annapy_command("get", "user:1", store=store)
    assert (result.exit_code, result.output) == (0, '{"name": "Ada"}\n')
    assert annapy_command("get", "user:2", store=store).output == "Grace\n"
    assert annapy_command("get", "raw", store=store).stdout_bytes == b"\x00\xff"
    data = line_of(annapy_command("get", "hits", "--json", store=store))
    assert data == {"key": "hits", "found": True, "kind": "counter", "value": 41}
    assert line_of(annapy_command("get", "tags", "--json", store=store))["value"] == ["a", "b"]


def test_get_of_a_missing_key_is_status_1(store: Path) -> None:
    result = annapy_command("get", "nobody", store=store)
    assert result.exit_code == 1
    assert result.stdout == ""
    data = line_of(annapy_command("get", "nobody", "--json", store=store))
    assert data == {"key": "nobody", "found": False}


@pytest.mark.parametrize(
    ("typed", "stored"),
    [("3", 3), ('{"a": [1, null]}', {"a": [1, None]}), ("hello", "hello"), ("", "")],
)
def test_set_reads_json_or_text(store: Path, typed: str, stored: object) -> None:
    assert annapy_command("set", "k", typed, store=store).exit_code == 0
    with annapy.open(store) as s:
        assert s["k"] == stored


def test_set_options(store: Path) -> None:
    assert annapy_command("set", "k", "3", "--text", "--ttl", "15m", store=store).exit_code == 0
    assert annapy_command("set", "k", "x", "--if-absent", store=store).exit_code == 1
    assert annapy_command("set", "in", "-", store=store, stdin="from there").exit_code == 0
    with annapy.open(store) as s:
        assert s["k"] == "3"
        assert 0 < s.ttl("k") <= 900
        assert s["in"] == "from there"


def test_del_and_incr(store: Path) -> None:
    assert line_of(annapy_command("del", "raw", "none", "--json", store=store)) == {"deleted": 1}
    assert annapy_command("del", "raw", store=store).exit_code == 1
    assert annapy_command("incr", "hits", store=store).output == "42\n"
    data = line_of(annapy_command("incr", "hits", "-2", "--json", store=store))
    assert data == {"key": "hits", "value": 40}


def test_scan(store: Path) -> None:
    result = annapy_command("scan", "user:", store=store)
    assert result.exit_code == 0
    assert "user:1" in result.output
    assert "register" in result.output
    data = line_of(annapy_command("scan", "--limit", "2", "--json", store=store))
    assert [item["key"] for item in data["items"]] == ["hits", "raw"]
    assert data["more"] is True
    data = line_of(annapy_command("scan", "user:", "--reverse", "--json", store=store))
    assert [item["key"] for item in data["items"]] == ["user:2", "user:1"]
    assert data["more"] is False
    assert annapy_command("scan", "nothing", store=store).exit_code == 1


def test_refusals_are_status_2_and_one_line(store: Path) -> None:
    result = annapy_command("incr", "user:1", store=store)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "user:1" in result.stderr
    data = line_of(annapy_command("incr", "user:1", "--json", store=store))
    assert data["error"] == "LatticeTypeError"
    result = annapy_command("set", "k", "v", "--ttl", "-1", store=store)
    assert (result.exit_code, result.stdout) == (2, "")
    assert annapy_command("get", "k").exit_code == 2  # no store named
    assert annapy_command("get").exit_code == 2
    assert annapy_command("unheard-of").exit_code == 2


def test_reading_makes_no_store(tmp_path: Path) -> None:
    result = annapy_command("get", "k", store=tmp_path / "none")
    assert result.exit_code == 2
    assert not (tmp_path / "none").exists()


def test_a_store_in_use(store: Path) -> None:
    hold = (
        "import annapy, sys; s = annapy.open(sys.argv[1]);"
        " print(len(s), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(store)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().strip() == "5"
        assert annapy_command("get", "user:2", store=store).output == "Grace\n"
        result = annapy_command("set", "user:2", "x", store=store)
        assert result.exit_code == 2
        assert str(holder.pid) in result.stderr
    finally:
        holder.communicate("")


def test_stat_check_backup_restore(store: Path, tmp_path: Path) -> None:
    assert line_of(annapy_command("stat", "--json", store=store))["keys"] == 5
    data = line_of(annapy_command("stat", "hits", "--json", store=store))
    assert data["kind"] == "counter"
    assert annapy_command("stat", "none", store=store).exit_code == 1
    data = line_of(annapy_command("check", str(store), "--json"))
    assert data["damaged"] == 0
    assert data["cells"] >= 5
    assert annapy_command("check", store=store).exit_code == 0
    copy, again = str(tmp_path / "copy"), tmp_path / "again"
    assert line_of(annapy_command("backup", copy, "--json", store=store))["cells"] >= 5
    assert annapy_command("backup", str(store), copy).exit_code == 2  # nothing is overwritten
    assert annapy_command("restore", copy, str(again)).exit_code == 0
    assert annapy_command("get", "hits", store=again).output == "41\n"
    assert annapy_command("restore", copy, store=again).exit_code == 2  # not into a store
    assert annapy_command("check", str(tmp_path / "none")).exit_code == 2


def test_check_finds_damage(store: Path) -> None:
    data = bytearray((store / "data.mdb").read_bytes())
    at = data.index(b"Grace")
    data[at] ^= 1
    (store / "data.mdb").write_bytes(data)
    result = annapy_command("check", str(store), "--json")
    assert result.exit_code == 1
    assert line_of(result)["damaged"] >= 1


def test_an_emptied_set_is_no_damage(store: Path, tmp_path: Path) -> None:
    with annapy.open(store) as s:
        s.orset("tags").discard("a")
        s.orset("tags").discard("b")
        del s["user:1"]
    result = annapy_command("check", store=store)
    assert (result.exit_code, "all whole" in result.output) == (0, True)
    assert annapy_command("backup", str(tmp_path / "copy"), store=store).exit_code == 0


def test_doctor(store: Path) -> None:
    result = annapy_command("doctor", "--json", store=store)
    data = line_of(result)
    assert result.exit_code == 0, data
    assert {f["verdict"] for f in data["findings"]} <= {"ok", "warn"}
    subjects = {finding["subject"] for finding in data["findings"]}
    assert {"Python", "lmdb", "memory", "file system", "clock", "store"} <= subjects
    assert annapy_command("doctor").exit_code == 0
    result = annapy_command("doctor", "--json", store=store / "none")
    assert result.exit_code == 1
    assert line_of(result)["failed"] == 1


def test_bench(tmp_path: Path) -> None:
    result = annapy_command("bench", "--rounds", "1", "--directory", str(tmp_path), "--json")
    names = [row["name"] for row in line_of(result)["figures"]]
    assert {"dict.get", "store.get", "counter.add(1)"} <= set(names)
    assert list(tmp_path.iterdir()) == []
    assert "store.get" in annapy_command("bench", "--rounds", "1").output


def test_demo(tmp_path: Path) -> None:
    place = str(tmp_path / "digits")
    first = line_of(annapy_command("demo", place, "--passes", "0.5", "--json"))
    assert first["continued"] is False
    assert first["accuracy_start"] < 0.2 < 0.8 < first["accuracy"]
    second = annapy_command("demo", place, "--passes", "0.1")
    assert "Continuing" in second.output
    assert f"{first['events']:,} events" in second.output
    third = line_of(annapy_command("demo", place, "--passes", "0", "--json"))
    assert third["continued"] is True
    assert third["accuracy"] == third["accuracy_start"]
    assert third["events_total"] > first["events_total"]
    fresh = line_of(annapy_command("demo", place, "--passes", "0", "--fresh", "--json"))
    assert fresh["continued"] is False
    assert fresh["events_total"] == 0


def test_demo_without_a_directory(tmp_path: Path) -> None:
    runner = CliRunner(env={"XDG_STATE_HOME": str(tmp_path), "ANNAPY_URL": None})
    result = runner.invoke(cli, ["demo", "--passes", "0"])
    assert result.exit_code == 0
    assert str(tmp_path / "annapy" / "demo") in result.output


def test_the_installed_command(store: Path) -> None:
    command = Path(sys.executable).with_name("annapy")
    if not command.exists():
        pytest.skip("annapy is not installed beside this interpreter")
    environment = os.environ | {"ANNAPY_URL": str(store)}
    done = subprocess.run(
        [command, "get", "hits"],
        env=environment, capture_output=True, text=True, check=False, timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "41\n")


def test_words() -> None:
    sizes = {0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 3 << 30: "3.0 GiB"}
    assert {size: size_words(size) for size in sizes} == sizes
    durations = {85: "85 ns", 3200: "3.2 µs", 1.5e6: "1.5 ms", 2e9: "2.0 s"}
    assert {spent: duration_words(spent) for spent in durations} == durations
    assert percentile([], 0.5) == 0
    assert percentile([1, 2, 3, 4], 0.5) == 3
    assert percentile([1, 2, 3, 4], 1.0) == 4
    assert jsonable({1: {2, "a"}, "b": b"\xff"}) == {"1": [2, "a"], "b": {"base64": "/w=="}}
    assert jsonable(float("inf")) == "inf"
