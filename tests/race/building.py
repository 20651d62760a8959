"""Builds the native stress harness, and the core beneath it, in a folder of its own.

Owns    build/race/VARIANT below the source tree (ignored by version control): a copy of the core's
        sources, an `annapy` package with nothing but the core, and the compiled modules.
Callers the race tests; a build is re-used while no source is newer. Needs Cython and a C compiler.

Variants: `plain` (as shipped), `tsan`, `asan`, and `planted` and `unordered`: tsan with a
deliberate mistake each.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
THREAD = "-O1 -g1 -fsanitize=thread -fno-omit-frame-pointer"
FLAGS = {
    "plain": "",
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
from pathlib import Path
from Cython.Build import cythonize
from setuptools import Extension, setup
flags, link = sys.argv.pop(1).split(), sys.argv.pop(1).split()
sources = sorted(p.as_posix() for p in Path("annapy").rglob("*.pyx")) + ["stress.pyx"]
setup(ext_modules=cythonize(
    [Extension(s[:-4].replace("/", "."), [s], include_dirs=["annapy/_core"],
               extra_compile_args=["-O2", "-Wno-unused-function"] + flags, extra_link_args=link)
     for s in sources],
    compiler_directives=dict(language_level=3, boundscheck=False, wraparound=False,
                             initializedcheck=False, cdivision=True), nthreads=2))
"""


def needed(variant: str, target: Path) -> dict[Path, Path]:
    """What goes where: the core, the declarations it needs, and the harness."""
    files = {HERE / "stress.pyx": target / "stress.pyx"}
    for folder in ("annapy/_core", "bindings"):
        for path in sorted((ROOT / folder).iterdir()):
            if path.suffix in {".pyx", ".pxd", ".h"} or path.name == "__init__.py":
                files[path] = target / folder / path.name
    for name in ("errors.py", "limits.py"):
        files[ROOT / "annapy" / name] = target / "annapy" / name
    if variant in PLANTED:
        core = target / "annapy" / "_core"
        files[ROOT / "annapy" / "_core" / "atomics.h"] = core / "atomics_real.h"
        files[HERE / "planted_atomics.h"] = core / "atomics.h"
    return files


def build(variant: str) -> Path:
    """The folder to put on the path; skips the test where there is nothing to build with."""
    pytest.importorskip("Cython", reason="the stress harness is built with Cython")
    if not (ROOT / "annapy" / "_core" / "ring.pyx").exists():
        pytest.skip("no source tree beside the tests")
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    if variant in RUNTIME:
        runtime(variant)
    target = ROOT / "build" / "race" / f"{variant}-{sys.implementation.cache_tag}"
    changed = False
    for source, copy in needed(variant, target).items():
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            changed = True
    (target / "annapy" / "__init__.py").touch()
    (target / "setup.py").write_text(SETUP)
    if changed or not list(target.glob("stress.*.so")):
        link = " ".join(f for f in FLAGS[variant].split() if f.startswith("-fsanitize"))
        done = subprocess.run(
            [sys.executable, "setup.py", FLAGS[variant], link, "-q", "build_ext",
             "--inplace", "-j2"], cwd=target, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return target


def runtime(variant: str) -> str:
    """The sanitizer's library, which has to be loaded before the interpreter."""
    name = RUNTIME[variant]
    found = subprocess.run([os.environ.get("CC", "cc"), f"-print-file-name={name}"],
                           capture_output=True, text=True, check=False).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"no {name} on this machine")
    return os.path.realpath(found)


def run(variant: str, code: str, *args: str, options: str = "", timeout: float = 280,
        pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs Python code over a variant's build, in the real interpreter (not a shim of it)."""
    target = build(variant)
    environment = dict(os.environ, PYTHONPATH=str(target), PYTHONNOUSERSITE="1")
    command = [os.path.realpath(sys.executable), "-c", code, *args]
    if variant in RUNTIME:
        environment["LD_PRELOAD"] = runtime(variant)
        environment["TSAN_OPTIONS"] = f"exitcode=66 halt_on_error=0 {options}"
        environment["ASAN_OPTIONS"] = f"detect_leaks=0 exitcode=66 {options}"
        environment["UBSAN_OPTIONS"] = "print_stacktrace=1 halt_on_error=1"
        if shutil.which("setarch"):        # gcc 12's runtime knows only some address layouts
            command = ["setarch", "-R", *command]
    return subprocess.run(command, env=environment, capture_output=True, text=True,
                          timeout=timeout, check=False, pass_fds=pass_fds, cwd=target)
