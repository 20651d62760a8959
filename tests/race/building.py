"""Builds the native stress harness, and instrumented copies of the core, in folders of their own.

Owns    build/race/VARIANT below the source tree (ignored by version control).
Callers the race tests; a build is re-used while no source has changed. Needs Cython and a C
        compiler.

Variants: `plain`, the harness alone, against the annapy that the tests import; and, each with a
copy of the core's sources in an `annapy` package of its own, `tsan`, `asan`, and `planted` and
`unordered`: tsan with a deliberate mistake each (see planted_atomics.h).
"""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORE = ROOT / "annapy" / "_core"
THREAD = "-O1 -g1 -fsanitize=thread -fno-omit-frame-pointer"
FLAGS = {
    "plain": "-O2",
    "tsan": THREAD,
    "planted": f"{THREAD} -DANNAPY_PLANTED_RACE=1",
    "unordered": f"{THREAD} -DANNAPY_PLANTED_RACE=2",
    "asan": "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
            " -fno-omit-frame-pointer",
}
PLANTED = ("planted", "unordered")
RUNTIME = dict.fromkeys(("tsan", *PLANTED), "libtsan.so") | {"asan": "libasan.so"}

SETUP = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup
flags, sources = sys.argv.pop(1).split(), sys.argv.pop(1).split()
link = [flag for flag in flags if flag.startswith("-fsanitize")]
setup(ext_modules=cythonize(
    [Extension(source[:-4].replace("/", "."), [source], include_dirs=["annapy/_core"],
               extra_compile_args=["-Wno-unused-function", *flags], extra_link_args=link)
     for source in sources],
    compiler_directives=dict(language_level=3, boundscheck=False, wraparound=False,
                             initializedcheck=False, cdivision=True), nthreads=2))
"""


def modules(variant: str) -> list[str]:
    """The core's modules that a variant builds: what the harness needs, for asan all there are."""
    if variant == "plain":
        return []
    if variant == "asan":
        return sorted(path.stem for path in CORE.glob("*.pyx"))
    found: set[str] = set()
    texts = [(HERE / "stress.pyx").read_text()]
    while texts:
        for name in re.findall(r"import annapy\._core\.(\w+)|from annapy\._core\.(\w+) c?import",
                               texts.pop()):
            module = name[0] or name[1]
            if module not in found and (CORE / f"{module}.pyx").exists():
                found.add(module)
                texts += [path.read_text() for path in CORE.glob(f"{module}.p[yx][xd]")]
    return sorted(found)


def needed(variant: str, target: Path) -> dict[Path, Path]:
    """What goes where: declarations for all, and what the variant builds."""
    files = {HERE / "stress.pyx": target / "stress.pyx"}
    for folder in (CORE, ROOT / "bindings"):
        for path in sorted(folder.iterdir()):
            if path.suffix in {".pxd", ".h"} or path.name == "__init__.py":
                files[path] = target / folder.relative_to(ROOT) / path.name
    for module in modules(variant):
        files[CORE / f"{module}.pyx"] = target / "annapy" / "_core" / f"{module}.pyx"
    for name in ("errors.py", "limits.py"):
        files[ROOT / "annapy" / name] = target / "annapy" / name
    if variant in PLANTED:
        files[CORE / "atomics.h"] = target / "annapy" / "_core" / "atomics_real.h"
        files[HERE / "planted_atomics.h"] = target / "annapy" / "_core" / "atomics.h"
    return files


def folder(variant: str) -> Path:
    return ROOT / "build" / "race" / f"{variant}-{sys.implementation.cache_tag}"


def build(variant: str) -> Path:
    """The folder to put on the path; skips the test where there is nothing to build with."""
    pytest.importorskip("Cython", reason="the stress harness is built with Cython")
    if not (CORE / "ring.pyx").exists():
        pytest.skip("no source tree beside the tests")
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    if variant in RUNTIME:
        runtime(variant)
    target = folder(variant)
    changed = False
    for source, copy in needed(variant, target).items():
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            changed = True
    (target / "annapy" / "__init__.py").touch()
    (target / "setup.py").write_text(SETUP)
    if changed or not list(target.glob("stress.*.so")):
        sources = [f"annapy/_core/{module}.pyx" for module in modules(variant)] + ["stress.pyx"]
        done = subprocess.run(
            [sys.executable, "setup.py", FLAGS[variant], " ".join(sources), "-q", "build_ext",
             "--inplace", "-j2"], cwd=target, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    if variant == "plain":                   # beside its declarations there must be no other annapy
        (target / "run").mkdir(exist_ok=True)
        for module in target.glob("stress.*.so"):
            shutil.copy2(module, target / "run" / module.name)
        return target / "run"
    return target


def runtime(variant: str) -> str:
    """The sanitizer's library, which has to be loaded before the interpreter."""
    name = RUNTIME[variant]
    found = subprocess.run([os.environ.get("CC", "cc"), f"-print-file-name={name}"],
                           capture_output=True, text=True, check=False).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"no {name} on this machine")
    return os.path.realpath(found)


def environment(variant: str) -> dict[str, str]:
    """For an interpreter that imports the variant's `stress`, and the annapy that belongs to it."""
    target = build(variant)
    import annapy

    path = [str(target)]
    if variant == "plain":
        path.append(str(Path(annapy.__file__).parent.parent))
    return dict(os.environ, PYTHONPATH=os.pathsep.join(path))


def run(variant: str, code: str, *args: str, timeout: float = 280,
        ) -> subprocess.CompletedProcess[str]:
    """Runs Python code over a variant's build, in the real interpreter (not a shim of it)."""
    variables = environment(variant)
    command = [os.path.realpath(sys.executable), "-c", code, *args]
    if variant in RUNTIME:
        variables["LD_PRELOAD"] = runtime(variant)
        variables["TSAN_OPTIONS"] = "exitcode=66 halt_on_error=0"
        variables["ASAN_OPTIONS"] = "detect_leaks=0 exitcode=66"
        variables["UBSAN_OPTIONS"] = "print_stacktrace=1 halt_on_error=1"
        if shutil.which("setarch"):        # gcc 12's runtime knows only some address layouts
            command = ["setarch", "-R", *command]
    return subprocess.run(command, env=variables, capture_output=True, text=True,
                          timeout=timeout, check=False, cwd=build(variant))
