"""Each file of examples/ runs in an empty folder, twice, and prints what its last lines promise."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import annapy

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MARK = "# -> "


def test_there_are_examples() -> None:
    if not (ROOT / "examples").exists():
        pytest.skip("no examples beside the tests")
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    promised = [line[len(MARK):] for line in text.splitlines() if line.startswith(MARK)]
    assert promised, f"{path.name} does not say what it prints"
    # The annapy under test, also where it is built in place and not installed.
    source = str(Path(annapy.__file__).parent.parent)
    environment = {name: x for name, x in os.environ.items() if not name.startswith("ANNAPY_")}
    environment["PYTHONPATH"] = source
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(path)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-len(promised):] == promised
