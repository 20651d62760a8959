# cython: language_level=3
"""Python values as bytes: the codec of registers, map fields and siblings.

Owns     the encoding of values. The encoding of set members and map fields is members.pyx, that
         of arrays _views.pyx. docs/internals/values.md draws both byte by byte.
Callers  the store and the typed faces, holding the GIL; threads share nothing here.

Invariants
    type(decode(encode(x))) is type(x) for every exact supported type; subclasses come back as the
    built-in type that they extend (an IntEnum as int, a namedtuple as tuple)
    decode accepts only what encode writes, apart from the order of a dict's items
    nothing is allocated for a length or a count that exceeds the bytes that are there
    depth <= DEPTH_MAX, size <= VALUE_SIZE_MAX, both ways
    a module (datetime, uuid, decimal, numpy, pickle) is imported when such a value is met
"""
import sys

from cpython.bytearray cimport (
    PyByteArray_AS_STRING, PyByteArray_Check, PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE,
)
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.complex cimport PyComplex_Check, PyComplex_ImagAsDouble, PyComplex_RealAsDouble
from cpython.dict cimport PyDict_Check, PyDict_CheckExact
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check, PyFloat_CheckExact
from cpython.list cimport PyList_Check, PyList_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check, PyLong_CheckExact
from cpython.tuple cimport PyTuple_Check, PyTuple_CheckExact
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from annapy._core.codec cimport (
    NO_MEMORY, OK, Cursor, buf_free, buf_init, buf_put, buf_reserve, cur_counted, cur_left,
    cur_take, cur_u8, cur_varint, cursor, likely, load_f64, load_u16, load_u32, load_u64,
    span, store_f64, store_u32, store_u64, unlikely, varint_store,
)
from annapy._core.joins_array cimport Array, array_parse
from annapy._times cimport get_clock, get_timedelta, put_clock, put_timedelta
from annapy._views cimport array_copy, put_buffer, put_dlpack
from annapy cimport members

__all__ = ["decode", "encode", "member", "unmember"]

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    object PyUnicode_DecodeUTF8(const char* p, Py_ssize_t n, const char* errors)
    bint PyUnicode_IS_COMPACT_ASCII(object s)
    void* PyUnicode_DATA(object s)
    Py_ssize_t PyUnicode_GET_LENGTH(object s)
    bint PyUnicode_Check(object x)
    bint PyUnicode_CheckExact(object x)
    bytes PyBytes_FromStringAndSize(const char* p, Py_ssize_t n)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline int annapy_is_ascii(const uint8_t* p, size_t n) {
        uint64_t word, seen = 0;
        size_t i = 0;
        for (; i + 8 <= n; i += 8) { memcpy(&word, p + i, 8); seen |= word; }
        for (; i < n; i++) seen |= p[i];
        return (seen & 0x8080808080808080ull) == 0;
    }
    """
    bint is_ascii "annapy_is_ascii"(const uint8_t* p, size_t n) noexcept nogil

cdef struct Writer:
    Buf* out
    size_t limit                           # out.len may not pass it
    bint allow_pickle
    int depth

cdef struct Reader:
    Cursor c
    bint allow_pickle
    int depth


# --- errors ---------------------------------------------------------------------------------

cdef int refuse(str message) except -1:
    from annapy.errors import SerializationError
    raise SerializationError(message)

cdef object corrupt(str what):
    from annapy.errors import CorruptCellError
    raise CorruptCellError(f"not an encoded value: {what}")

cdef object type_name(object x):
    t = type(x)
    return t.__qualname__ if t.__module__ == "builtins" else f"{t.__module__}.{t.__qualname__}"


# --- encoding -------------------------------------------------------------------------------

cdef int no_room(Writer* w, size_t n) except -1:
    if w.out.status == NO_MEMORY or w.out.len + n <= w.limit:
        raise MemoryError("no memory to encode a value")
    return refuse(
        f"a value may take up to {VALUE_SIZE_MAX} bytes encoded: split it over several keys"
    )

cdef inline uint8_t* room(Writer* w, size_t n) except NULL:
    cdef uint8_t* to = NULL
    if likely(w.out.len + n <= w.limit):
        to = buf_reserve(w.out, n)
    if unlikely(to == NULL):
        no_room(w, n)
    return to

cdef inline int put_code(Writer* w, uint8_t code) except -1:
    room(w, 1)[0] = code
    w.out.len += 1
    return 0

cdef inline int put_head(Writer* w, uint8_t code, uint64_t n) except -1:
    cdef uint8_t* to = room(w, 11)
    to[0] = code
    to = varint_store(to + 1, n)
    w.out.len = to - w.out.ptr
    return 0

cdef inline int put_counted(Writer* w, uint8_t code, const void* p, size_t n) except -1:
    cdef uint8_t* to = room(w, n + 11)
    to[0] = code
    to = varint_store(to + 1, n)
    memcpy(to, p, n)
    w.out.len = to + n - w.out.ptr
    return 0

cdef inline int put_i64(Writer* w, int64_t x) except -1:
    cdef uint8_t* to = room(w, 9)
    store_u64(to + 1, <uint64_t>x)
    if x == <int8_t>x:
        to[0] = V_INT8
        w.out.len += 2
    elif x == <int16_t>x:
        to[0] = V_INT16
        w.out.len += 3
    elif x == <int32_t>x:
        to[0] = V_INT32
        w.out.len += 5
    else:
        to[0] = V_INT64
        w.out.len += 9
    return 0

cdef int put_bigint(Writer* w, object x) except -1:
    n = (int.bit_length(x) >> 3) + 1       # room for the sign: the minimal two's complement
    cdef bytes b = int.to_bytes(x, n, "little", signed=True)
    if x < 0 and n > 1 and b[n - 1] == 0xFF and b[n - 2] >= 0x80:
        b = b[:n - 1]                      # -2**(8k-1): bit_length counts one too many
    return put_counted(w, V_BIGINT, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))

cdef inline int put_int(Writer* w, object x) except -1:
    cdef int overflow = 0
    cdef int64_t v = PyLong_AsLongLongAndOverflow(x, &overflow)
    if unlikely(overflow):
        return put_bigint(w, x)
    return put_i64(w, v)

cdef inline int put_float(Writer* w, object x) except -1:
    cdef uint8_t* to = room(w, 9)
    to[0] = V_FLOAT
    store_f64(to + 1, PyFloat_AS_DOUBLE(x))
    w.out.len += 9
    return 0

cdef int put_wide_str(Writer* w, object x) except -1:
    # A bytes object of its own: the UTF-8 that CPython would cache in `x` stays with the caller.
    cdef bytes b = str.encode(x, "utf-8", "surrogatepass")
    return put_counted(w, V_STR, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))

cdef inline int put_str(Writer* w, object x) except -1:
    if likely(PyUnicode_IS_COMPACT_ASCII(x)):
        return put_counted(w, V_STR, PyUnicode_DATA(x), PyUnicode_GET_LENGTH(x))
    return put_wide_str(w, x)

cdef inline int put_bytes(Writer* w, object x) except -1:
    return put_counted(w, V_BYTES, PyBytes_AS_STRING(x), PyBytes_GET_SIZE(x))

cdef int deeper(Writer* w) except -1:
    w.depth += 1
    if w.depth > DEPTH_MAX:
        return refuse(
            f"containers nested deeper than {DEPTH_MAX} levels, or one that contains itself: "
            "flatten the value"
        )
    return 0

cdef int changed(object x) except -1:
    raise RuntimeError(f"{type_name(x)} changed size while it was being stored")

cdef int put_tuple(Writer* w, tuple x) except -1:
    deeper(w)
    put_head(w, V_TUPLE, len(x))
    for item in x:
        put_any(w, item)
    w.depth -= 1
    return 0

cdef int put_list(Writer* w, list x) except -1:
    cdef Py_ssize_t i, n = len(x)
    deeper(w)
    put_head(w, V_LIST, n)
    for i in range(n):
        if i >= len(x):
            break
        put_any(w, x[i])
    if len(x) != n:
        changed(x)
    w.depth -= 1
    return 0

cdef int put_dict(Writer* w, dict x) except -1:
    cdef Py_ssize_t left = len(x)
    deeper(w)
    put_head(w, V_DICT, left)
    for key, value in x.items():           # raises RuntimeError when the size changes
        put_any(w, key)
        put_any(w, value)
        left -= 1
    if left:                               # the same size, but other keys
        changed(x)
    w.depth -= 1
    return 0

cdef int put_mapping(Writer* w, object x) except -1:
    """A dict subclass: its own order counts (OrderedDict.move_to_end)."""
    items = list(x.items())
    deeper(w)
    put_head(w, V_DICT, len(items))
    for key, value in items:
        put_any(w, key)
        put_any(w, value)
    w.depth -= 1
    return 0

cdef int put_set(Writer* w, object x, uint8_t code) except -1:
    """Members by their own encodings, ascending: sets that hold the same have the same bytes."""
    cdef size_t start
    cdef bytes part, last = None
    cdef list parts = []
    cdef Py_ssize_t twins = 0
    deeper(w)
    start = w.out.len
    for item in list(x):
        put_any(w, item)
        parts.append(PyBytes_FromStringAndSize(<char*>w.out.ptr + start, w.out.len - start))
        w.out.len = start
    parts.sort()
    for part in parts:                     # two NaN objects are two members, and one encoding
        twins += part == last
        last = part
    put_head(w, code, len(parts) - twins)
    last = None
    for part in parts:
        if part != last:
            room(w, PyBytes_GET_SIZE(part))
            buf_put(w.out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
        last = part
    w.depth -= 1
    return 0

cdef int put_any(Writer* w, object x) except -1:
    if PyUnicode_CheckExact(x):
        return put_str(w, x)
    if PyLong_CheckExact(x):
        return put_int(w, x)
    if PyBytes_CheckExact(x):
        return put_bytes(w, x)
    if PyFloat_CheckExact(x):
        return put_float(w, x)
    if x is None:
        return put_code(w, V_NONE)
    if x is True:
        return put_code(w, V_TRUE)
    if x is False:
        return put_code(w, V_FALSE)
    if PyDict_CheckExact(x):
        return put_dict(w, x)
    if PyList_CheckExact(x):
        return put_list(w, x)
    if PyTuple_CheckExact(x):
        return put_tuple(w, x)
    return put_other(w, x)

cdef int put_other(Writer* w, object x) except -1:
    """Everything off the fast path, subclasses of the built-in types included."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(x, numpy.generic) and not isinstance(x, (str, bytes)):
        return put_numpy_scalar(w, x, numpy)
    if PyUnicode_Check(x):
        return put_str(w, x)
    if PyLong_Check(x):
        return put_int(w, x)
    if PyBytes_Check(x):
        return put_bytes(w, x)
    if PyFloat_Check(x):
        return put_float(w, x)
    if PyByteArray_Check(x):
        return put_counted(w, V_BYTEARRAY, PyByteArray_AS_STRING(x), PyByteArray_GET_SIZE(x))
    if PyDict_Check(x):
        return put_mapping(w, x)
    if PyList_Check(x):
        return put_list(w, list(x))
    if PyTuple_Check(x):
        return put_tuple(w, tuple(x))
    if isinstance(x, frozenset):
        return put_set(w, x, V_FROZENSET)
    if isinstance(x, set):
        return put_set(w, x, V_SET)
    if PyComplex_Check(x):
        return put_complex(w, x)
    if put_standard(w, x):
        return 0
    return put_foreign(w, x)

cdef int put_complex(Writer* w, object x) except -1:
    cdef uint8_t* to = room(w, 17)
    to[0] = V_COMPLEX
    store_f64(to + 1, PyComplex_RealAsDouble(x))
    store_f64(to + 9, PyComplex_ImagAsDouble(x))
    w.out.len += 17
    return 0

cdef int put_standard(Writer* w, object x) except -1:
    """Types of the standard library; 1 if it was one. Before its import none has instances."""
    module = sys.modules.get("datetime")
    if module is not None:
        if isinstance(x, module.datetime):
            put_code(w, V_DATETIME)
            put_clock(x, False, w.out)
            return 1
        if isinstance(x, module.date):
            return put_fixed(w, V_DATE, int.to_bytes(x.toordinal(), 4, "little"))
        if isinstance(x, module.time):
            put_code(w, V_TIME)
            put_clock(x, True, w.out)
            return 1
        if isinstance(x, module.timedelta):
            put_code(w, V_TIMEDELTA)
            put_timedelta(x, w.out)
            return 1
    module = sys.modules.get("uuid")
    if module is not None and isinstance(x, module.UUID):
        return put_fixed(w, V_UUID, x.bytes)
    module = sys.modules.get("decimal")
    if module is not None and isinstance(x, module.Decimal):
        # str() is exact; the context may ask it for a lower-case exponent.
        put_text(w, V_DECIMAL, module.Decimal.__str__(x).replace("e", "E"))
        return 1
    return 0

cdef int put_fixed(Writer* w, uint8_t code, bytes payload) except -1:
    cdef Py_ssize_t n = len(payload)
    cdef uint8_t* to = room(w, n + 1)
    to[0] = code
    memcpy(to + 1, PyBytes_AS_STRING(payload), n)
    w.out.len += n + 1
    return 1

cdef int put_text(Writer* w, uint8_t code, str text) except -1:
    cdef bytes b = text.encode("utf-8")
    return put_counted(w, code, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))

cdef int put_foreign(Writer* w, object x) except -1:
    """Arrays of anybody's; then pickle, if it is allowed; then the refusal."""
    cdef size_t start = w.out.len
    cdef int done = 0
    if PyObject_CheckBuffer(x) or hasattr(type(x), "__dlpack__"):
        put_array_head(w, V_ARRAY)
        try:
            done = put_buffer(x, w.out) if PyObject_CheckBuffer(x) else put_dlpack(x, w.out)
        except TypeError:                  # SerializationError is one
            if not w.allow_pickle:
                raise
        if done and w.out.len <= w.limit:
            return 0
        w.out.len = start
        if done:
            no_room(w, w.limit + 1)
    if w.allow_pickle:
        return put_pickle(w, x)
    return refuse(
        f"cannot store a {type_name(x)}: store None, bool, int, float, complex, str, bytes, tuple, "
        "list, dict, set, frozenset, datetime, date, time, timedelta, UUID, Decimal or an array; "
        "or open a private store with allow_pickle=True"
    )

cdef int put_array_head(Writer* w, uint8_t code) except -1:
    cdef uint8_t* to = room(w, V_ARRAY_HEAD)
    store_u32(to, code)                    # and three zero bytes
    w.out.len += V_ARRAY_HEAD
    return 0

cdef int put_numpy_scalar(Writer* w, object x, object numpy) except -1:
    cdef size_t start = w.out.len
    put_array_head(w, V_SCALAR)
    try:
        put_buffer(numpy.asarray(x), w.out)
    except TypeError:
        if not w.allow_pickle:
            raise
        w.out.len = start
        put_pickle(w, x)
    return 0

cdef int put_pickle(Writer* w, object x) except -1:
    import pickle
    cdef bytes b
    try:
        b = pickle.dumps(x, 5)
    except Exception as error:
        from annapy.errors import SerializationError
        raise SerializationError(f"cannot pickle a {type_name(x)}: {error}") from error
    return put_counted(w, V_PICKLE, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))


cdef int put_slow(Writer* w, object x) except -1:
    cdef size_t start = w.out.len
    try:
        return put_any(w, x)
    except BaseException:
        w.out.len = start
        raise

cdef int encode_value(object x, Buf* out, bint allow_pickle) except -1:
    cdef Writer w
    w.out = out
    w.limit = out.len + VALUE_SIZE_MAX
    w.allow_pickle = allow_pickle
    w.depth = 0
    # These write nothing before they succeed, so they need no way back.
    if PyUnicode_CheckExact(x):
        return put_str(&w, x)
    if PyBytes_CheckExact(x):
        return put_bytes(&w, x)
    if PyLong_CheckExact(x):
        return put_int(&w, x)
    if PyFloat_CheckExact(x):
        return put_float(&w, x)
    return put_slow(&w, x)


# --- decoding -------------------------------------------------------------------------------

cdef object wide_str(const uint8_t* p, size_t n):
    try:
        return PyUnicode_DecodeUTF8(<const char*>p, n, "surrogatepass")
    except UnicodeDecodeError as error:
        corrupt(f"a string that is not UTF-8 ({error.reason})")

cdef inline object make_str(const uint8_t* p, size_t n):
    cdef object s
    if likely(n > 1 and is_ascii(p, n)):   # shorter ones are singletons of the interpreter
        s = PyUnicode_New(n, 127)
        memcpy(PyUnicode_DATA(s), p, n)
        return s
    return wide_str(p, n)

cdef inline object make_bytes(const uint8_t* p, size_t n):
    return PyBytes_FromStringAndSize(<const char*>p, n)

cdef inline int take(Reader* r, uint64_t n, Span* s) except -1:
    if unlikely(cur_take(&r.c, n, s) != OK):
        corrupt("truncated")
        return -1
    return 0

cdef inline int take_counted(Reader* r, Span* s) except -1:
    if unlikely(cur_counted(&r.c, s) != OK):
        corrupt("truncated, or a length that is not minimal")
        return -1
    return 0

cdef int64_t take_count(Reader* r, size_t item) except -1:
    """How many items follow, each of at least `item` bytes; one level deeper."""
    cdef uint64_t n = 0
    if cur_varint(&r.c, &n) != OK or n > cur_left(&r.c) / item:
        corrupt("a count that exceeds the bytes")
    r.depth += 1
    if r.depth > DEPTH_MAX:
        corrupt(f"deeper than {DEPTH_MAX} levels")
    return <int64_t>n

cdef object read_int(Reader* r, uint8_t code):
    cdef Span s
    cdef int64_t x, narrower
    take(r, <uint64_t>1 << (code - V_INT8), &s)
    if code == V_INT8:
        return <int8_t>s.ptr[0]
    if code == V_INT16:
        x = <int16_t>load_u16(s.ptr)
        narrower = <int8_t>x
    elif code == V_INT32:
        x = <int32_t>load_u32(s.ptr)
        narrower = <int16_t>x
    else:
        x = <int64_t>load_u64(s.ptr)
        narrower = <int32_t>x
    if x == narrower:
        corrupt("an integer that is not minimal")
    return x

cdef object read_bigint(Reader* r):
    cdef Span s
    take_counted(r, &s)
    if s.len < 9:
        return corrupt("a small integer in the form of a big one")
    if s.ptr[s.len - 1] == (0xFF if s.ptr[s.len - 2] >= 0x80 else 0):
        return corrupt("an integer that is not minimal")
    return int.from_bytes(make_bytes(s.ptr, s.len), "little", signed=True)

cdef object read_list(Reader* r):
    cdef int64_t i, n = take_count(r, 1)
    cdef list items = []
    for i in range(n):
        items.append(read_any(r))
    r.depth -= 1
    return items

cdef object read_dict(Reader* r):
    cdef int64_t i, n = take_count(r, 2)
    cdef dict d = {}
    for i in range(n):
        key = read_any(r)
        value = read_any(r)
        try:
            d[key] = value
        except TypeError:
            corrupt("a dict key that cannot be hashed")
    if len(d) != n:
        corrupt("a dict key twice")
    r.depth -= 1
    return d

cdef object read_set(Reader* r):
    cdef int64_t i, n = take_count(r, 1)
    cdef set members = set()
    cdef const uint8_t* at
    cdef bytes part, last = b""
    for i in range(n):
        at = r.c.at
        item = read_any(r)
        part = make_bytes(at, r.c.at - at)
        if part <= last:
            corrupt("members out of order")
        last = part
        try:
            members.add(item)
        except TypeError:
            corrupt("a member that cannot be hashed")
    if len(members) != n:
        corrupt("a member twice")
    r.depth -= 1
    return members

cdef object read_any(Reader* r):
    cdef uint8_t code = 0
    cdef Span s
    if cur_u8(&r.c, &code) != OK:
        return corrupt("truncated")
    if code == V_STR:
        take_counted(r, &s)
        return make_str(s.ptr, s.len)
    if V_INT8 <= code <= V_INT64:
        return read_int(r, code)
    if code == V_NONE:
        return None
    if code == V_FALSE:
        return False
    if code == V_TRUE:
        return True
    if code == V_FLOAT:
        take(r, 8, &s)
        return load_f64(s.ptr)
    if code == V_BYTES:
        take_counted(r, &s)
        return make_bytes(s.ptr, s.len)
    if code == V_DICT:
        return read_dict(r)
    if code == V_LIST:
        return read_list(r)
    if code == V_TUPLE:
        return tuple(read_list(r))
    if code == V_SET:
        return read_set(r)
    if code == V_FROZENSET:
        return frozenset(read_set(r))
    return read_other(r, code)

cdef object read_other(Reader* r, uint8_t code):
    cdef Span s
    if code == V_BIGINT:
        return read_bigint(r)
    if code == V_BYTEARRAY:
        take_counted(r, &s)
        return PyByteArray_FromStringAndSize(<const char*>s.ptr, s.len)
    if code == V_COMPLEX:
        take(r, 16, &s)
        return complex(load_f64(s.ptr), load_f64(s.ptr + 8))
    if code == V_ARRAY or code == V_SCALAR:
        return read_array(r, code)
    if code == V_PICKLE:
        return read_pickle(r)
    try:
        if code == V_DATE:
            take(r, 4, &s)
            from datetime import date
            return date.fromordinal(load_u32(s.ptr))
        if code == V_DATETIME or code == V_TIME:
            return get_clock(code == V_TIME, &r.c)
        if code == V_TIMEDELTA:
            return get_timedelta(&r.c)
        if code == V_UUID:
            take(r, 16, &s)
            from uuid import UUID
            return UUID(bytes=make_bytes(s.ptr, 16))
        if code == V_DECIMAL:
            return read_decimal(r)
    except (ValueError, OverflowError, ArithmeticError, TypeError) as error:
        if type(error).__module__.startswith("annapy."):
            raise
        return corrupt(str(error))
    return corrupt(f"unknown code 0x{code:02x}")

cdef object read_array(Reader* r, uint8_t code):
    cdef Array a
    cdef Span s
    take(r, V_ARRAY_HEAD - 1, &s)
    if s.ptr[0] or s.ptr[1] or s.ptr[2] or array_parse(&r.c, &a) != OK:
        return corrupt("a broken array")
    if code == V_ARRAY:
        return array_copy(&a)
    if a.ndim:
        return corrupt("a NumPy scalar with dimensions")
    return array_copy(&a)[()]

cdef object read_pickle(Reader* r):
    cdef Span s
    take_counted(r, &s)
    if not r.allow_pickle:
        refuse("the value is a pickle: open the store with allow_pickle=True if you trust it")
    import pickle
    try:
        return pickle.loads(make_bytes(s.ptr, s.len))
    except Exception as error:
        from annapy.errors import SerializationError
        raise SerializationError(f"cannot unpickle the value: {error}") from error

cdef object read_decimal(Reader* r):
    from decimal import Decimal
    cdef Span s
    take_counted(r, &s)
    text = make_bytes(s.ptr, s.len).decode("ascii")
    x = Decimal(text)
    if str(x).replace("e", "E") != text:
        return corrupt("a Decimal that is not in its own form")
    return x

cdef object decode_rest(const uint8_t* p, size_t n, bint allow_pickle):
    cdef Reader r
    r.c = cursor(span(p, n))
    r.allow_pickle = allow_pickle
    r.depth = 0
    x = read_any(&r)
    if cur_left(&r.c):
        return corrupt(f"{cur_left(&r.c)} bytes too many")
    return x

cdef object decode_value(const uint8_t* p, size_t n, bint allow_pickle):
    if n < 2:
        if n == 1 and p[0] == V_NONE:
            return None
        return decode_rest(p, n, allow_pickle)
    if n < 130 and p[1] == n - 2:          # a string whose length is one byte
        if p[0] == V_STR:
            return make_str(p + 2, n - 2)
        if p[0] == V_BYTES:
            return make_bytes(p + 2, n - 2)
    if p[0] == V_INT8 and n == 2:
        return <int8_t>p[1]
    if p[0] == V_FLOAT and n == 9:
        return load_f64(p + 1)
    return decode_rest(p, n, allow_pickle)


# --- members: see members.pyx ---------------------------------------------------------------

cdef int encode_member(object x, Buf* out) except -1:
    return members.put_member(x, out)

cdef object decode_member(const uint8_t* p, size_t n):
    return members.get_member(p, n)


# --- for Python -----------------------------------------------------------------------------

def encode(value, bint allow_pickle=False):
    cdef Buf out
    buf_init(&out)
    try:
        encode_value(value, &out, allow_pickle)
        return PyBytes_FromStringAndSize(<char*>out.ptr, out.len)
    finally:
        buf_free(&out)


def member(value):
    cdef Buf out
    buf_init(&out)
    try:
        encode_member(value, &out)
        return PyBytes_FromStringAndSize(<char*>out.ptr, out.len)
    finally:
        buf_free(&out)


def decode(data, bint allow_pickle=False):
    cdef Py_buffer view
    if PyBytes_CheckExact(data):
        return decode_value(<uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), allow_pickle)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return decode_value(<uint8_t*>view.buf, view.len, allow_pickle)
    finally:
        PyBuffer_Release(&view)


def unmember(data):
    cdef Py_buffer view
    if PyBytes_CheckExact(data):
        return decode_member(<uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return decode_member(<uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
