"""Style as a test: layers, sizes, openings, forbidden things, and what `import annapy` may load.

Reads the source tree that lies beside the tests, and skips where there is none. Every check names
the file and line that fail it. Rules are the house's; a limit changes here or not at all.
"""
from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "annapy" / "_core").is_dir(), reason="no source tree beside the tests"
)

FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100
FOLDERS = ["annapy", "bindings", "faas_adapter", "benches", "examples", "tests", "docs", ".ci"]
PACKAGES = ["annapy", "bindings", "faas_adapter"]
CODE = {".py", ".pyx", ".pxd", ".pyi", ".h", ".c"}
TEXT = CODE | {".md", ".toml", ".txt", ".in", ""}

MEMORY = ["mapping", "pages", "arena", "ring", "hazard", "liveness"]
SHARD = [
    "tree", "tree_change", "tree_chunks", "collection", "large",
    "ledger", "events", "table", "records", "shard", "memory", "requests", "reading", "batching",
    "cut", "engine",
]

# A file imports from its own layer and from those above it in this list, never from one below it.
# A name stands for the module and everything inside it; the longest name that fits decides.
LAYERS = [
    ["bindings", "annapy.errors", "annapy.limits"],
    [
        "annapy._core",  # cells, joins, codec, clock: pure functions over bytes
        "annapy.values", "annapy.members", "annapy._views", "annapy._times",
        "annapy.lattice",
    ],
    [f"annapy._core.{name}" for name in MEMORY],
    [f"annapy._core.{name}" for name in SHARD],
    ["annapy.persist", "annapy.host"],
    ["annapy.cluster", "annapy.device"],
    ["annapy"],  # the store: what a user touches
    ["annapy.aio", "annapy.cli", "annapy.demo", "annapy.testing", "annapy.integrations"],
    ["faas_adapter"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What a function's cold start does not pay for. `annapy.open()` in memory and a read load none.
HEAVY = ["zmq", "lmdb", "numpy", "asyncio", "msgspec", "click", "rich", "json", "inspect", "typing"]


def files(folders: list[str], suffixes: set[str]) -> Iterator[Path]:
    for folder in folders:
        for base, inner, names in os.walk(ROOT / folder):
            inner[:] = sorted(set(inner) - {"__pycache__", "build", "node_modules"})
            for name in sorted(names):
                path = Path(base, name)
                if path.suffix in suffixes and not name.endswith(".egg-info"):
                    yield path


def everything(suffixes: set[str]) -> list[Path]:
    top = [p for p in sorted(ROOT.iterdir()) if p.is_file() and p.suffix in suffixes]
    return [p for p in top if not p.name.startswith(".") and p.name != "LICENSE"] + list(
        files(FOLDERS, suffixes)
    )


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def module_of(path: Path) -> str:
    dotted = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return dotted.removesuffix(".__init__")


def rank_of(module: str) -> int | None:
    while module:
        if module in RANK:
            return RANK[module]
        module = module.rpartition(".")[0]
    return None


CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+(.*)|c?import\s+([\w., ]+))")


def imports_of(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """(line, module, names) of every import in a file, wherever in the file it stands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".py", ".pyi"}:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{where(path, node.lineno)}: relative import"
                yield node.lineno, node.module or "", [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name, []
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = CYTHON_IMPORT.match(line)
        if match and match[1]:
            names = re.split(r"[\s,]+", match[2].split("#")[0].strip("( )\\"))
            yield number, match[1], [name for name in names if name]
        elif match:
            for name in match[3].split(","):
                yield number, name.split()[0], []


def test_layers() -> None:
    wrong = []
    for path in files(PACKAGES, {".py", ".pyx", ".pxd", ".pyi"}):
        module = module_of(path)
        own = rank_of(module)
        assert own is not None, f"{where(path, 1)}: no layer; say in LAYERS where it stands"
        if module == "annapy":  # the face re-exports lazily what stands above it
            continue
        for line, target, names in imports_of(path):
            for name in names or [""]:
                full = f"{target}.{name}" if name and f"{target}.{name}" in RANK else target
                rank = rank_of(full)
                if rank is not None and rank > own and full != "annapy":
                    wrong.append(f"{where(path, line)}: {module} imports {full}, a higher layer")
    assert not wrong, "\n".join(wrong)


def test_only_the_transport_imports_zmq_and_only_persist_lmdb() -> None:
    owners = {
        "zmq": ("annapy.cluster.transport_zmq", "annapy.cli.doctor", "bindings"),
        "lmdb": ("annapy.persist", "annapy.cli.doctor", "bindings"),
    }
    wrong = [
        f"{where(path, line)}: imports {target}"
        for path in files(PACKAGES, {".py", ".pyx", ".pxd"})
        for line, target, _ in imports_of(path)
        if target.split(".")[0] in owners
        and not module_of(path).startswith(owners[target.split(".")[0]])
    ]
    assert not wrong, "\n".join(wrong)


def test_sizes_of_files_and_lines() -> None:
    wrong = []
    for path in everything(CODE | {".toml"}):
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > FILE_LINES_MAX:
            wrong.append(f"{where(path, len(lines))}: {len(lines)} lines > {FILE_LINES_MAX}")
        wrong += [
            f"{where(path, n)}: {len(line)} columns > {LINE_COLUMNS_MAX}"
            for n, line in enumerate(lines, 1)
            if len(line) > LINE_COLUMNS_MAX
        ]
    assert not wrong, "\n".join(wrong)


def python_functions(text: str) -> Iterator[tuple[int, str, int]]:
    """(line, name, lines without the docstring) of every function of a Python file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                length -= (first.end_lineno or first.lineno) - first.lineno + 1
            yield node.lineno, node.name, length


NO_FUNCTION = r"class|extern|enum|struct|packed|union|object\s*:"
CYTHON_FUNCTION = re.compile(
    rf"^(\s*)(?:async\s+def|def|cpdef|cdef(?!\s+(?:{NO_FUNCTION})))"
    r"\b[^=#\"']*?(\w+)\s*\("
)


def cython_functions(text: str) -> Iterator[tuple[int, str, int]]:
    """The same for Cython, by indentation: a body ends before the first line that is not deeper."""
    lines = text.splitlines()
    for start, line in enumerate(lines):
        match = CYTHON_FUNCTION.match(line)
        if not match:
            continue
        depth, end, quote = len(match[1]), start, None
        documentation = 0
        for number in range(start + 1, len(lines)):
            inner = lines[number]
            bare = inner.strip()
            if bare and len(inner) - len(inner.lstrip()) <= depth and not bare.startswith(")"):
                break
            if quote is None and bare.startswith('"""') and documentation == 0:
                quote = bare.count('"""') < 2 or None
                documentation += 1
            elif quote:
                documentation += 1
                quote = None if '"""' in bare else True
            end = number if bare else end
        yield start + 1, match[2], end - start + 1 - documentation


def test_functions_fit_a_screen() -> None:
    wrong = []
    for path in files([*PACKAGES, "benches", "examples", "tests"], {".py", ".pyx", ".pxd"}):
        text = path.read_text(encoding="utf-8")
        found = python_functions(text) if path.suffix == ".py" else cython_functions(text)
        wrong += [
            f"{where(path, line)}: {name} has {length} lines > {FUNCTION_LINES_MAX}"
            for line, name, length in found
            if length > FUNCTION_LINES_MAX
        ]
    assert not wrong, "\n".join(wrong)


def test_every_file_opens_with_what_it_owns() -> None:
    wrong = []
    for path in everything(CODE):
        text = path.read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.strip()]
        while lines and lines[0].startswith(("# cython:", "# distutils:", "#!", "#pragma")):
            del lines[0]
        if lines and not lines[0].startswith(('"""', 'r"""', "#", "/*", "//")):
            wrong.append(f"{where(path, 1)}: no docstring or comment that opens the file")
        if not lines and path.name not in {"__init__.pxd", "__init__.py"}:
            wrong.append(f"{where(path, 1)}: empty")
    assert not wrong, "\n".join(wrong)


def test_no_generated_c() -> None:
    generated = [
        where(path, 1)
        for path in files([*PACKAGES, "benches", "tests"], {".c", ".cpp"})
        if "Generated by Cython" in path.read_text(encoding="utf-8", errors="replace")[:200]
    ]
    assert not generated, "\n".join(generated)


def test_no_leftovers() -> None:
    # Spelled in pieces, so that this file passes its own test.
    leftovers = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "/tmp/" + "wt", "/tmp/" + "venv"]
    leftovers += ["/wo" + "rk/", "/ho" + "me/", "/ro" + "ot/", "<<<<" + "<<<", ">>>>" + ">>>"]
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(word)}" for word in leftovers))
    wrong = []
    for path in everything(TEXT):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = pattern.search(line)
            if match:
                wrong.append(f"{where(path, number)}: {match[0]}")
            if line != line.rstrip():
                wrong.append(f"{where(path, number)}: trailing blanks")
    assert not wrong, "\n".join(wrong)


def test_links_lead_somewhere() -> None:
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
    broken = []
    for path in everything({".md"}):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            broken += [
                f"{where(path, number)}: {target}"
                for target in link.findall(line)
                if not (path.parent / target).exists()
            ]
    assert not broken, "\n".join(broken)


def python_modules() -> list[Path]:
    return [path for path in files(PACKAGES, {".py"}) if path.read_text(encoding="utf-8").strip()]


def test_every_module_says_what_is_public() -> None:
    wrong = []
    for path in python_modules():
        if path.name == "__main__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        targets = [
            target.id
            for node in tree.body
            if isinstance(node, (ast.Assign, ast.AnnAssign))
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        ]
        if "__all__" not in targets:
            wrong.append(f"{where(path, 1)}: no __all__")
        if ast.get_docstring(tree) is None:
            wrong.append(f"{where(path, 1)}: no docstring")
    assert not wrong, "\n".join(wrong)


def test_every_extension_has_a_stub() -> None:
    missing = [
        where(path, 1)
        for path in files(["annapy"], {".pyx"})
        if not path.with_suffix(".pyi").exists()
    ]
    assert not missing, "no .pyi beside: " + ", ".join(missing)


def test_packages_are_all_installed() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^packages = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block
    listed = set(re.findall(r'"([\w.]+)"', block[1]))
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in files(["annapy", "faas_adapter"], {".py", ".pyx"})
    }
    assert listed - {"annapy.bindings"} == found


def child(code: str) -> str:
    """Standard output of `code` in an interpreter without site, so that nothing is preloaded."""
    import annapy

    paths = [str(Path(annapy.__file__).parent.parent), *[p for p in sys.path if p]]
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {paths!r}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("use", ["", "s = annapy.open(); s['k'] = 1; assert s['k'] == 1"])
def test_import_is_light(use: str) -> None:
    out = child(f"import annapy\n{use}\nprint(*sorted(sys.modules))")
    loaded = set(out.split()) & set(HEAVY)
    assert not loaded, f"import annapy; {use} loads {sorted(loaded)}"


def test_public_names_exist() -> None:
    code = "import annapy\nfor name in annapy.__all__: getattr(annapy, name)\nprint('fine')"
    assert child(code).strip() == "fine"
