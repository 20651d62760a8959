"""The extension modules, nothing else: everything declarative is in pyproject.toml.

Owns the list of extensions (every `.pyx` under `annapy/`), how Cython translates them and how the
C compiler is called. Environment: ANNAPY_CFLAGS and ANNAPY_LDFLAGS are appended, so that
`ANNAPY_CFLAGS="-g -O1 -fsanitize=thread"` wins over what stands here.

Translation runs inside `build_ext`, not at import: pip executes this file several times only to
ask for metadata, and a source distribution must list `.pyx` files and no generated C.
"""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DIRECTIVES = {
    "language_level": 3,
    # tests/race/test_threads.py passes on a free-threaded interpreter with the GIL off.
    "freethreading_compatible": True,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "python",
}
COMPILE = [
    "-O3", "-g0", "-fno-math-errno", "-Wno-unused-function",
    *os.environ.get("ANNAPY_CFLAGS", "").split(),
]
LINK = os.environ.get("ANNAPY_LDFLAGS", "").split()
JOBS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BuildExtensions(build_ext):
    """Translates Cython to C below build/cython, then compiles, both with one job a core."""

    def build_extensions(self) -> None:
        """Called by `run` with the options settled and the list of extensions made."""
        translated = cythonize(
            self.extensions,
            compiler_directives=DIRECTIVES,
            build_dir="build/cython",
            nthreads=self.parallel or JOBS,
            force=self.force,
        )
        for extension, c_extension in zip(self.extensions, translated, strict=True):
            vars(extension).update(vars(c_extension))
        self.parallel = self.parallel or JOBS
        super().build_extensions()


def extensions() -> list[Extension]:
    """One extension module for each `.pyx`; the module's name is its path."""
    sources = sorted(path.as_posix() for path in Path("annapy").rglob("*.pyx"))
    return [
        Extension(
            source.removesuffix(".pyx").replace("/", "."),
            [source],
            include_dirs=["annapy/_core"],
            extra_compile_args=COMPILE,
            extra_link_args=LINK,
        )
        for source in sources
    ]


# The guard is for `multiprocessing`: a spawned translator imports this file again.
if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
