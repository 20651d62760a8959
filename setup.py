"""The extension modules, nothing else: everything declarative is in pyproject.toml."""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "python",
}
COMPILE = ["-O3", "-fno-math-errno", "-Wno-unused-function", *os.environ.get("ANNAPY_CFLAGS", "").split()]
LINK = os.environ.get("ANNAPY_LDFLAGS", "").split()


def extensions() -> list[Extension]:
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


setup(
    ext_modules=cythonize(
        extensions(),
        compiler_directives=DIRECTIVES,
        build_dir="build/cython",
        nthreads=0,
    )
)
