# cython: language_level=3
"""Arrays between Python and bytes: buffers and DLPack in; ndarrays, Tensors and views out.

Owns     Slab (foreign memory with the buffer protocol), Tensor (an array whose dtype NumPy lacks),
         the table between DLPack's dtypes and NumPy's.
Callers  values.pyx and the store, holding the GIL. NumPy is imported when the first array is made,
         never at import; reading an array in needs no NumPy at all.

Invariants
    what is appended parses: header canonical, data C-contiguous and little-endian
    a view never outlives its memory: view -> Slab -> owner
    a view is read-only for everyone who asks (torch does not)
"""
import sys

from cpython.buffer cimport (
    PyBUF_FULL_RO, PyBUF_WRITABLE,
    PyBuffer_FillInfo, PyBuffer_IsContiguous, PyBuffer_Release, PyBuffer_ToContiguous,
    PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from annapy._core.codec cimport (
    OK, Buf, Cursor, buf_free, buf_init, buf_reserve, cur_left, cursor, span,
)
from annapy._core.joins_array cimport (
    ARRAY_BYTES_MAX, ARRAY_NDIM_MAX, DT_BFLOAT, DT_BOOL, DT_COMPLEX, DT_FLOAT, DT_INT, DT_UINT,
    Array, array_dim, array_header_parse, array_header_store, array_parse, dtype_known,
)
from bindings.dlpack cimport (
    DLManagedTensor, DLTensor, kDLCPU, kDLCUDAHost, kDLCUDAManaged, kDLROCMHost,
)

__all__ = ["Slab", "Tensor", "pack", "rebuild_tensor", "unpack", "view"]

cdef dict NAMES = {
    (DT_INT, 8): "int8", (DT_INT, 16): "int16", (DT_INT, 32): "int32", (DT_INT, 64): "int64",
    (DT_UINT, 8): "uint8", (DT_UINT, 16): "uint16", (DT_UINT, 32): "uint32",
    (DT_UINT, 64): "uint64", (DT_FLOAT, 16): "float16", (DT_FLOAT, 32): "float32",
    (DT_FLOAT, 64): "float64", (DT_COMPLEX, 64): "complex64", (DT_COMPLEX, 128): "complex128",
    (DT_BOOL, 8): "bool", (DT_BFLOAT, 16): "bfloat16", (7, 8): "float8_e3m4",
    (8, 8): "float8_e4m3", (9, 8): "float8_e4m3b11fnuz", (10, 8): "float8_e4m3fn",
    (11, 8): "float8_e4m3fnuz", (12, 8): "float8_e5m2", (13, 8): "float8_e5m2fnuz",
    (14, 8): "float8_e8m0fnu",
}
cdef dict FOREIGN = {name: key for key, name in NAMES.items() if key[0] == DT_BFLOAT or key[0] > 6}


cdef int refuse(str message) except -1:
    from annapy.errors import SerializationError
    raise SerializationError(message)

cdef object corrupt(str what):
    from annapy.errors import CorruptCellError
    raise CorruptCellError(f"not an encoded array: {what}")


# --- in -------------------------------------------------------------------------------------

cdef uint8_t* put_header(Buf* out, int code, int bits, int ndim, const int64_t* shape,
                         Array* a) except NULL:
    """Appends the header; returns where the data go (room is made, out.len covers them)."""
    cdef uint8_t* to
    cdef Cursor c
    cdef size_t size = 8 + 8 * <size_t>ndim
    if ndim > ARRAY_NDIM_MAX:
        refuse(f"cannot store an array of {ndim} dimensions: up to {ARRAY_NDIM_MAX}")
    to = buf_reserve(out, size)
    if to == NULL:
        raise MemoryError("no memory to encode an array")
    array_header_store(to, <uint8_t>code, <uint8_t>bits, ndim, shape)
    c = cursor(span(to, size))
    if array_header_parse(&c, a) != OK:
        refuse(
            f"cannot store an array of shape {tuple([shape[i] for i in range(ndim)])} and "
            f"{bits} bits an element: up to {ARRAY_BYTES_MAX} bytes, split it over several keys"
        )
    out.len += size
    to = buf_reserve(out, a.nbytes + 1)
    if to == NULL:
        raise MemoryError("no memory to encode an array")
    out.len += a.nbytes
    return to

cdef int code_of_format(const char* f, Py_ssize_t itemsize, bint* swap) noexcept:
    """DLPack's dtype code for a struct-module format of one element, or -1."""
    swap[0] = False
    if f == NULL:
        return DT_UINT if itemsize == 1 else -1
    if f[0] == c">" or f[0] == c"!":
        swap[0] = itemsize > 1
        f += 1
    elif f[0] == c"<" or f[0] == c"=" or f[0] == c"@" or f[0] == c"^":
        f += 1
    if f[0] == c"Z" and (f[1] == c"f" or f[1] == c"d") and f[2] == 0:
        return DT_COMPLEX
    if f[0] == 0 or f[1] != 0:
        return -1
    if f[0] in b"bhilqn":
        return DT_INT
    if f[0] in b"BHILQNc":
        return DT_UINT
    if f[0] in b"efd":
        return DT_FLOAT
    if f[0] == c"?":
        return DT_BOOL
    return -1

cdef void swap_bytes(uint8_t* p, size_t nbytes, size_t width) noexcept nogil:
    cdef size_t i = 0, j
    cdef uint8_t x
    while i < nbytes:
        for j in range(width >> 1):
            x = p[i + j]
            p[i + j] = p[i + width - 1 - j]
            p[i + width - 1 - j] = x
        i += width

cdef object dtype_name(object x):
    return str(getattr(x, "dtype", type(x).__name__))

cdef int put_view(object x, Py_buffer* view, int code, Buf* out) except -1:
    """`code`: the dtype if it is known already, else -1."""
    cdef bint swap = False
    cdef Array a
    cdef uint8_t* to
    cdef size_t width
    if code < 0:
        code = code_of_format(view.format, view.itemsize, &swap)
    if code < 0 or not dtype_known(<uint8_t>code, <uint8_t>(view.itemsize * 8)):
        return refuse(
            f"cannot store an array of dtype {dtype_name(x)}: only integers, floats up to 64 bits, "
            "complex and bool are; store each field of a structured array by itself, and strings "
            "and objects as a list"
        )
    to = put_header(out, code, view.itemsize * 8, view.ndim, <int64_t*>view.shape, &a)
    if <size_t>view.len != a.nbytes:
        return refuse(f"cannot store {type(x).__name__}: its buffer contradicts its shape")
    if a.nbytes == 0:
        return 1
    if PyBuffer_IsContiguous(view, c"C"):
        memcpy(to, view.buf, a.nbytes)
    elif PyBuffer_ToContiguous(to, view, view.len, c"C") < 0:
        return -1
    if swap:
        width = a.itemsize >> 1 if code == DT_COMPLEX else a.itemsize
        swap_bytes(to, a.nbytes, width)
    if code == DT_BOOL:
        for i in range(a.nbytes):
            to[i] = to[i] != 0
    return 1

cdef object unbuffered(object x, object error):
    """An array of a dtype that the buffer protocol has no format for, as integers of its width."""
    name = getattr(getattr(x, "dtype", None), "name", None)
    if name not in FOREIGN:
        refuse(f"cannot store an array of dtype {dtype_name(x)}: {error}; convert it "
               "first, datetimes for example by x.view('int64')")
    return x.view("u2" if FOREIGN[name][1] == 16 else "u1"), FOREIGN[name][0]

cdef int put_buffer(object x, Buf* out) except -1:
    cdef Py_buffer view
    cdef int code = -1
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(x) is not numpy.ndarray and hasattr(x, "filled"):
        refuse("cannot store a masked array: store x.filled() and x.mask under keys of their own")
    try:
        PyObject_GetBuffer(x, &view, PyBUF_FULL_RO)
    except (BufferError, ValueError) as error:
        x, code = unbuffered(x, error)
        PyObject_GetBuffer(x, &view, PyBUF_FULL_RO)
    try:
        return put_view(x, &view, code, out)
    finally:
        PyBuffer_Release(&view)

cdef void copy_strided(uint8_t* to, const uint8_t* source, const DLTensor* t,
                       size_t itemsize) noexcept nogil:
    """Elements in C order; ndim >= 1, no dimension is zero, strides are given."""
    cdef int64_t at[ARRAY_NDIM_MAX]
    cdef int axis
    memset(at, 0, sizeof(at))
    while True:
        memcpy(to, source, itemsize)
        to += itemsize
        axis = t.ndim - 1
        while True:
            at[axis] += 1
            source += t.strides[axis] * <int64_t>itemsize
            if at[axis] < t.shape[axis]:
                break
            source -= t.shape[axis] * t.strides[axis] * <int64_t>itemsize
            at[axis] = 0
            if axis == 0:
                return
            axis -= 1

cdef bint is_contiguous(const DLTensor* t) noexcept nogil:
    cdef int64_t expected = 1
    cdef int axis
    if t.strides == NULL:
        return True
    for axis in range(t.ndim - 1, -1, -1):
        if t.shape[axis] != 1 and t.strides[axis] != expected:
            return False
        expected *= t.shape[axis]
    return True

cdef int put_dlpack(object x, Buf* out) except -1:
    cdef DLTensor* t
    cdef Array a
    cdef uint8_t* to
    cdef const uint8_t* source
    name = type(x).__name__
    try:
        kind, index = x.__dlpack_device__()
        kind = int(kind)
    except Exception as error:
        refuse(f"cannot store a {name}: its __dlpack_device__ failed: {error}")
    if kind not in (kDLCPU, kDLCUDAHost, kDLROCMHost, kDLCUDAManaged):
        refuse(f"cannot store a {name} on device ({kind}, {index}) here: copy it to the host first")
    try:
        capsule = x.__dlpack__()           # the capsule frees the tensor when it goes unused
    except Exception as error:
        refuse(f"cannot store a {name}: its __dlpack__ failed: {error}")
    if not PyCapsule_IsValid(capsule, "dltensor"):
        refuse(f"cannot store a {name}: its __dlpack__ returned no DLPack capsule")
    t = &(<DLManagedTensor*>PyCapsule_GetPointer(capsule, "dltensor")).dl_tensor
    if t.dtype.lanes != 1 or t.ndim < 0 or not dtype_known(t.dtype.code, t.dtype.bits):
        refuse(f"cannot store a {name} of DLPack dtype ({t.dtype.code}, {t.dtype.bits} bits, "
               f"{t.dtype.lanes} lanes): convert it first")
    to = put_header(out, t.dtype.code, t.dtype.bits, t.ndim, t.shape, &a)
    source = <const uint8_t*>t.data + t.byte_offset
    if a.nbytes == 0:
        return 1
    if is_contiguous(t):
        memcpy(to, source, a.nbytes)
    else:
        copy_strided(to, source, t, a.itemsize)
    return 1


# --- out ------------------------------------------------------------------------------------

cdef class Slab:
    """Read-only bytes at an address, kept alive by `owner`; for NumPy, through the buffer protocol.
    """
    cdef const uint8_t* ptr
    cdef Py_ssize_t len
    cdef object owner

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.ptr, self.len, 1, flags)

    def __len__(self):
        return self.len

    def __reduce__(self):
        raise TypeError("a view of a store's memory has no pickle: copy it first")


cdef object slab(const uint8_t* p, size_t n, object owner):
    cdef Slab s = Slab.__new__(Slab)
    s.ptr = p
    s.len = n
    s.owner = owner
    return s

cdef dict dtypes = {}         # (code, bits) -> numpy.dtype; filled on first use, entries are equal

cdef object dtype_of(const Array* a):
    """NumPy's dtype, or None."""
    key = (a.code, a.bits)
    dtype = dtypes.get(key)
    if dtype is None:
        name = NAMES[key]
        if name in FOREIGN:
            return None
        import numpy
        dtype = dtypes[key] = numpy.dtype(name)
    return dtype

cdef object shape_of(const Array* a):
    return tuple([array_dim(a, i) for i in range(a.ndim)])

cdef int check_bools(const Array* a) except -1:
    cdef size_t i
    cdef uint8_t seen = 0
    if a.code == DT_BOOL:
        for i in range(a.nbytes):
            seen |= a.data[i]
        if seen > 1:
            corrupt("a bool that is neither 0 nor 1")
    return 0

cdef object array_copy(const Array* a):
    cdef Py_buffer view
    check_bools(a)
    dtype = dtype_of(a)
    if dtype is None:
        return tensor(a, PyBytes_FromStringAndSize(<const char*>a.data, a.nbytes), NULL)
    import numpy
    try:
        x = numpy.empty(shape_of(a), dtype)
    except ValueError as error:
        corrupt(str(error))
    if a.nbytes:
        PyObject_GetBuffer(x, &view, PyBUF_WRITABLE)
        memcpy(view.buf, a.data, a.nbytes)
        PyBuffer_Release(&view)
    return x

cdef object array_view(const uint8_t* p, size_t n, object owner):
    cdef Cursor c = cursor(span(p, n))
    cdef Array a
    if array_parse(&c, &a) != OK or cur_left(&c):
        corrupt("a broken header, or data of another size")
    dtype = dtype_of(&a)
    if dtype is None:
        return tensor(&a, owner, a.data)
    import numpy
    return numpy.ndarray(shape_of(&a), dtype, slab(a.data, a.nbytes, owner))

cdef object tensor(const Array* a, object owner, const uint8_t* data):
    cdef Tensor t = Tensor.__new__(Tensor)
    t.code = a.code
    t.bits = a.bits
    t.nbytes = a.nbytes
    t.shape = shape_of(a)
    t.owner = owner
    t.data = data if data != NULL else <const uint8_t*>PyBytes_AS_STRING(owner)
    return t


cdef struct Export:           # what a consumer of DLPack holds; freed by its deleter
    DLManagedTensor managed
    int64_t shape[ARRAY_NDIM_MAX]

cdef void export_delete(DLManagedTensor* managed) noexcept with gil:
    Py_DECREF(<object>managed.manager_ctx)
    free(managed)

cdef void capsule_delete(object capsule) noexcept:
    if PyCapsule_IsValid(capsule, "dltensor"):
        export_delete(<DLManagedTensor*>PyCapsule_GetPointer(capsule, "dltensor"))


cdef class Tensor:
    """An array of a dtype that NumPy lacks (bfloat16, the 8-bit floats): read it by DLPack.

    `torch.from_dlpack(t)` and `jax.dlpack.from_dlpack(t)` share its memory, which is never to be
    written to. `numpy.asarray(t)` works where `ml_dtypes` is installed. Source: the Python array
    API standard, DLPack 1.x.
    """
    cdef uint8_t code, bits
    cdef readonly size_t nbytes
    cdef readonly tuple shape
    cdef object owner
    cdef const uint8_t* data

    @property
    def dtype(self):
        """The name of the element type, as ml_dtypes spells it: "bfloat16"."""
        return NAMES[self.code, self.bits]

    def __dlpack_device__(self):
        return kDLCPU, 0

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        cdef Export* e
        cdef int i
        if stream is not None or copy or (dl_device is not None and tuple(dl_device) != (1, 0)):
            raise BufferError("a Tensor shares the host's memory: no stream, device or copy")
        e = <Export*>malloc(sizeof(Export))
        if e == NULL:
            raise MemoryError("no memory to export a Tensor")
        memset(e, 0, sizeof(Export))
        for i in range(len(self.shape)):
            e.shape[i] = self.shape[i]
        e.managed.dl_tensor.data = <void*>self.data
        e.managed.dl_tensor.device.device_type = kDLCPU
        e.managed.dl_tensor.ndim = <int>len(self.shape)
        e.managed.dl_tensor.dtype.code = self.code
        e.managed.dl_tensor.dtype.bits = self.bits
        e.managed.dl_tensor.dtype.lanes = 1
        e.managed.dl_tensor.shape = e.shape
        e.managed.manager_ctx = <void*>self
        e.managed.deleter = export_delete
        Py_INCREF(self)
        try:
            return PyCapsule_New(e, "dltensor", <void (*)(object) noexcept>capsule_delete)
        except BaseException:
            export_delete(&e.managed)
            raise

    def __array__(self, dtype=None, copy=None):
        import ml_dtypes
        import numpy
        x = numpy.frombuffer(slab(self.data, self.nbytes, self), getattr(ml_dtypes, self.dtype))
        x = x.reshape(self.shape)
        return x if dtype is None and not copy else numpy.array(x, dtype)

    def tobytes(self):
        """The elements in C order, little-endian, as a copy."""
        return PyBytes_FromStringAndSize(<const char*>self.data, self.nbytes)

    def __eq__(self, other):
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.dtype == other.dtype and self.shape == other.shape
                and self.tobytes() == other.tobytes())

    __hash__ = None

    def __reduce__(self):
        return rebuild_tensor, (self.dtype, self.shape, self.tobytes())

    def __repr__(self):
        return f"Tensor(dtype={self.dtype!r}, shape={self.shape})"


def rebuild_tensor(str dtype, tuple shape, bytes data):
    """Unpickles a Tensor."""
    cdef Tensor t = Tensor.__new__(Tensor)
    cdef size_t count = 1
    t.code, t.bits = FOREIGN[dtype]
    for dim in shape:
        count *= dim
    if count * (t.bits >> 3) != <size_t>len(data):
        raise ValueError(f"a Tensor of shape {shape} has other than {len(data)} bytes")
    t.nbytes = len(data)
    t.shape = shape
    t.owner = data
    t.data = <const uint8_t*>PyBytes_AS_STRING(data)
    return t


def view(size_t address, size_t n, owner):
    """`array_view` by address, for tests and for modules that load this one late."""
    return array_view(<const uint8_t*>address, n, owner)


def pack(x):
    """Header and data of anything that `encode` stores as an array, of a list or of a number."""
    cdef Buf out
    buf_init(&out)
    try:
        if PyObject_CheckBuffer(x):
            put_buffer(x, &out)
        elif hasattr(type(x), "__dlpack__"):
            put_dlpack(x, &out)
        else:
            import numpy
            put_buffer(numpy.asarray(x), &out)
        return PyBytes_FromStringAndSize(<char*>out.ptr, out.len)
    finally:
        buf_free(&out)


def unpack(bytes data not None):
    """The array that `pack` made these bytes from: a read-only view that keeps them alive."""
    return array_view(<const uint8_t*>PyBytes_AS_STRING(data), len(data), data)
