"""Arrays between Python and bytes: views over foreign memory, arrays of foreign dtypes."""
from typing import Any, NoReturn

from typing_extensions import disjoint_base

__all__ = ["Slab", "Tensor", "pack", "rebuild_tensor", "unpack", "view"]

@disjoint_base
class Slab:
    """Read-only bytes at an address, kept alive by an owner, through the buffer protocol."""

    def __len__(self) -> int: ...
    def __reduce__(self) -> NoReturn: ...

@disjoint_base
class Tensor:
    """An array of a dtype that NumPy lacks (bfloat16, the 8-bit floats): read it by DLPack."""

    __hash__: None  # type: ignore[assignment]
    @property
    def nbytes(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str:
        """The name of the element type, as ml_dtypes spells it: "bfloat16"."""

    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any: ...
    def tobytes(self) -> bytes:
        """The elements in C order, little-endian, as a copy."""

    def __eq__(self, other: object, /) -> bool: ...

def rebuild_tensor(dtype: str, shape: tuple[int, ...], data: bytes) -> Tensor:
    """Unpickles a Tensor."""

def view(address: int, n: int, owner: object) -> Any:
    """A read-only ndarray (or Tensor) over header and data at `address`; keeps `owner` alive."""

def pack(x: Any) -> bytes:
    """Header and data of anything that `encode` stores as an array, of a list or of a number."""

def unpack(data: bytes) -> Any:
    """The array that `pack` made these bytes from: a read-only view that keeps them alive."""
