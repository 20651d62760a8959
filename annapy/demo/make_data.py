"""Makes `digits/digits.npz`, the images that the demo replays, from the published file.

    python -m annapy.demo.make_data SOURCE [TARGET]

SOURCE is `optdigits.tes` of the UCI repository, or the gzipped copy of it that scikit-learn's wheel
carries (`sklearn/datasets/data/digits.csv.gz`): a line per image, 64 pixels of 0 to 16 and the
label, separated by commas. TARGET gets two arrays: `images` (n, 64) and `labels` (n,), both uint8.
The same source gives the same bytes, apart from the compressor's version.
"""
from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

__all__ = ["make"]

IMAGES = 1797
PIXELS = 64
PIXEL_MAX = 16
LABEL_MAX = 9


def make(source: Path, target: Path) -> int:
    """Write the images of `source` to `target`; returns the size of the result in bytes.

    Raises ValueError when `source` is not the test part of the set.
    """
    raw = source.read_bytes()
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    rows = np.loadtxt(text.decode("ascii").splitlines(), delimiter=",", dtype=np.float64)
    images, labels = rows[:, :PIXELS], rows[:, PIXELS]
    if rows.shape != (IMAGES, PIXELS + 1) or images.max() > PIXEL_MAX or labels.max() > LABEL_MAX:
        raise ValueError(
            f"{source}: expected {IMAGES} lines of {PIXELS} pixels (0 to {PIXEL_MAX}) and a label,"
            f" found an array of {rows.shape}; this is not the test part of the set"
        )
    np.savez_compressed(target, images=images.astype(np.uint8), labels=labels.astype(np.uint8))
    return target.stat().st_size


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    target = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent / "digits/digits.npz")
    sys.stdout.write(f"{target}: {make(Path(sys.argv[1]), target)} bytes\n")
