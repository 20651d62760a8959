# cython: language_level=3
"""Set members and map fields as bytes whose memcmp order is Python's order.

Owns     the encoding of members. docs/internals/values.md draws it byte by byte.
Callers  values.encode_member and decode_member, holding the GIL; threads share nothing here.

Invariants, for members a and b (NaN apart)
    a == b   <=>  put_member(a) == put_member(b)      so 1, 1.0, True and Decimal(1) are one member
    a < b     =>  put_member(a) <  put_member(b)      wherever Python can compare
    otherwise the order is fixed: None < numbers < complex < str < bytes < tuple < frozenset
              < date < datetime < aware datetime < time < aware time < timedelta < UUID
    a nested encoding ends itself: no encoding is a prefix of another of its kind
    decode accepts only what encode writes

What comes back equals what went in, in one type for all that are equal: a number as int if it is
whole, else as float if a double holds it exactly, else as Decimal; an aware datetime in UTC; a
subclass as its built-in base.

Numbers: sign, integer part, fraction; a negative one is the complement of its positive twin. The
fraction is binary as far as a double reaches (70 bits), and decimal for what lies between, where
only Decimals can be: so doubles, integers and Decimals compare exactly with one another.
"""
import sys

from cpython.bytes cimport (
    PyBytes_AS_STRING, PyBytes_Check, PyBytes_CheckExact, PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
)
from cpython.complex cimport PyComplex_Check, PyComplex_ImagAsDouble, PyComplex_RealAsDouble
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check, PyLong_CheckExact
from cpython.tuple cimport PyTuple_Check, PyTuple_CheckExact
from libc.math cimport fabs, frexp, isinf, isnan, ldexp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from annapy._core.codec cimport (
    OK, Buf, Cursor, Span, buf_free, buf_init, buf_reserve, cur_left, cur_take, cur_u8, cursor,
    likely, span,
)
from annapy._times cimport at_clock, clock_us, wall_us

__all__: list[str] = []

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object s)
    void* PyUnicode_DATA(object s)
    Py_ssize_t PyUnicode_GET_LENGTH(object s)
    bint PyUnicode_Check(object x)
    bint PyUnicode_CheckExact(object x)
    object PyUnicode_DecodeUTF8(const char* p, Py_ssize_t n, const char* errors)

cdef enum:
    M_DEPTH_MAX = 64
    M_GROUPS_MAX = 10         # of 7 bits: the binary part of a fraction
    M_WHOLE_MAX = 1785        # bytes of an integer part: < 2**14280, about 4,298 digits
    M_PLACES_MAX = 4300       # decimal places

cdef enum Kind:
    M_END = 0x00              # of a tuple; also of a nested str or bytes
    M_NONE = 0x10
    M_MINUS_INF = 0x75        # 0x76..0x7F: negative numbers
    M_NUMBER = 0x80           # + bytes of the integer part, up to 8
    M_BIG = 0x89              # u16 big-endian: bytes of the integer part
    M_INF = 0x8A
    M_NAN = 0x8B
    M_COMPLEX = 0x90
    M_STR = 0xA0
    M_BYTES = 0xA1
    M_TUPLE = 0xA2
    M_FROZENSET = 0xA3
    M_DATE = 0xB0
    M_DATETIME = 0xB1
    M_AWARE = 0xB2
    M_TIME = 0xB3
    M_TIME_AWARE = 0xB4
    M_TIMEDELTA = 0xB5
    M_UUID = 0xB6

cdef int64_t DAY_US = 86_400_000_000
cdef int64_t DAYS = 3_652_059


cdef int refuse(str message) except -1:
    from annapy.errors import SerializationError
    raise SerializationError(message)

cdef object corrupt(str what):
    from annapy.errors import CorruptCellError
    raise CorruptCellError(f"not an encoded member: {what}")

cdef int append(Buf* out, const void* p, size_t n) except -1:
    cdef uint8_t* to = buf_reserve(out, n)
    if to == NULL:
        raise MemoryError("no memory to encode a member")
    memcpy(to, p, n)
    out.len += n
    return 0

cdef inline void store_be(uint8_t* p, uint64_t x, int n) noexcept nogil:
    """The low `n` bytes of x, most significant first."""
    cdef int i
    for i in range(n - 1, -1, -1):
        p[i] = <uint8_t>x
        x >>= 8

cdef inline uint64_t load_be(const uint8_t* p, size_t n) noexcept nogil:
    cdef uint64_t x = 0
    cdef size_t i
    for i in range(n):
        x = x << 8 | p[i]
    return x

cdef int put_be(Buf* out, uint8_t tag, uint64_t x, int n) except -1:
    cdef uint8_t b[9]
    b[0] = tag
    store_be(b + 1, x, n)
    return append(out, b, n + 1)


# --- numbers out ----------------------------------------------------------------------------

cdef inline int whole_size(uint64_t x) noexcept nogil:
    cdef int n = 0
    while x:
        x >>= 8
        n += 1
    return n

cdef int put_small(Buf* out, bint negative, uint64_t whole, double fraction) except -1:
    """A number below 2**64 whose fraction, 0 <= fraction < 1, is a double."""
    cdef uint8_t b[32]
    cdef int n = whole_size(whole), i, e = 0
    cdef uint64_t bits
    b[0] = <uint8_t>(M_NUMBER + n)
    store_be(b + 1, whole, n)
    n += 1
    if fraction == 0:
        b[n] = 0
        n += 1
    else:
        bits = <uint64_t>(frexp(fraction, &e) * 9007199254740992.0) << 10     # 2**53, to 63 bits
        n += put_zeros(b + n, -e)
        while bits:
            b[n] = <uint8_t>(bits >> 55) & 0xFE
            bits = bits << 7 & 0x7FFFFFFFFFFFFFFF
            b[n] |= bits != 0
            n += 1
    if negative:
        for i in range(n):
            b[i] = ~b[i]
    return append(out, b, n)

cdef inline int put_zeros(uint8_t* b, int zeros) noexcept nogil:
    """Leading zero bits of a fraction, more of them sorting lower; never a zero byte first."""
    if zeros < 128:
        b[0] = <uint8_t>(0xFF - zeros)
        return 1
    store_be(b, 0x7FFF - zeros, 2)
    return 2

cdef int put_ratio(Buf* out, bint negative, object n, object d) except -1:
    """n / d exactly, both positive ints, d a divisor of a power of ten."""
    cdef bytearray b
    cdef uint8_t zeros[2]
    cdef int group
    whole, rest = divmod(n, d)
    size = (whole.bit_length() + 7) // 8
    if size > M_WHOLE_MAX:
        refuse(f"a number as a member or field has up to {8 * M_WHOLE_MAX} bits before the point")
    b = bytearray([M_NUMBER + size] if size <= 8 else [M_BIG, size >> 8, size & 0xFF])
    b += whole.to_bytes(size, "big")
    if not rest:
        b.append(0)
    else:
        lead = max(d.bit_length() - rest.bit_length() - 1, 0)
        while (rest << lead + 1) < d:
            lead += 1
        b += PyBytes_FromStringAndSize(<char*>zeros, put_zeros(zeros, lead))
        binary = rest << lead
        for group in range(M_GROUPS_MAX):
            bits, binary = divmod(binary << 7, d)
            b.append(bits << 1 | (binary != 0))
            if not binary:
                break
        else:                               # between two doubles: decimal digits, two a byte
            while rest:
                pair, rest = divmod(rest * 100, d)
                b.append(pair + 1)
            b.append(0)
    if negative:
        b = bytearray([x ^ 0xFF for x in b])
    return append(out, <char*>b, len(b))

cdef int put_int(Buf* out, object x) except -1:
    cdef int overflow = 0
    cdef int64_t v = PyLong_AsLongLongAndOverflow(x, &overflow)
    if overflow:
        return put_ratio(out, overflow < 0, abs(int.__index__(x)), 1)
    return put_small(out, v < 0, 0 - <uint64_t>v if v < 0 else <uint64_t>v, 0)

cdef int put_float(Buf* out, double x) except -1:
    cdef double size = fabs(x)
    cdef uint64_t whole
    if isnan(x):
        return put_be(out, M_NAN, 0, 0)
    if isinf(x):
        return put_be(out, M_INF if x > 0 else M_MINUS_INF, 0, 0)
    if size >= 18446744073709551616.0:
        return put_ratio(out, x < 0, int(size), 1)
    whole = <uint64_t>size
    return put_small(out, x < 0, whole, size - <double>whole)

cdef int put_decimal(Buf* out, object x) except -1:
    if x.is_snan():
        raise TypeError("unhashable: a signalling NaN")
    if not x.is_finite():
        return put_float(out, float(x))
    if not x:
        return put_small(out, False, 0, 0)
    digits = x.as_tuple()
    exponent = digits.exponent
    for digit in reversed(digits.digits):
        if digit:
            break
        exponent += 1
    if x.adjusted() > M_PLACES_MAX or exponent < -M_PLACES_MAX:
        refuse(f"a Decimal as a member or field has up to {M_PLACES_MAX} places: {str(x)[:64]}")
    n, d = x.as_integer_ratio()
    return put_ratio(out, n < 0, abs(n), d)


# --- everything else out --------------------------------------------------------------------

cdef int put_text(Buf* out, uint8_t tag, const uint8_t* p, size_t n, bint nested) except -1:
    """At the top the text ends where the member ends; nested, 00 ends it and 00 FF is a zero."""
    cdef const uint8_t* zero
    cdef size_t run
    cdef uint8_t escape[2]
    cdef uint8_t* to
    if not nested:
        to = buf_reserve(out, n + 1)
        if to == NULL:
            raise MemoryError("no memory to encode a member")
        to[0] = tag
        memcpy(to + 1, p, n)
        out.len += n + 1
        return 0
    append(out, &tag, 1)
    escape[0] = 0
    escape[1] = 0xFF
    while True:
        zero = <const uint8_t*>memchr(p, 0, n) if n else NULL
        run = n if zero == NULL else <size_t>(zero - p)
        append(out, p, run)
        if zero == NULL:
            return append(out, escape, 1)
        append(out, escape, 2)
        p += run + 1
        n -= run + 1

cdef int put_str(Buf* out, object x, bint nested) except -1:
    cdef bytes b
    if likely(PyUnicode_IS_COMPACT_ASCII(x)):
        return put_text(out, M_STR, <uint8_t*>PyUnicode_DATA(x), PyUnicode_GET_LENGTH(x), nested)
    b = str.encode(x, "utf-8", "surrogatepass")
    return put_text(out, M_STR, <uint8_t*>PyBytes_AS_STRING(b), len(b), nested)

cdef int put_tuple(Buf* out, tuple x, int depth) except -1:
    cdef uint8_t tag = M_TUPLE
    if depth >= M_DEPTH_MAX:
        return refuse(f"a member nested deeper than {M_DEPTH_MAX} levels: flatten it")
    append(out, &tag, 1)
    for item in x:
        put_any(out, item, depth + 1, True)
    tag = M_END
    return append(out, &tag, 1)

cdef int put_frozenset(Buf* out, object x, int depth) except -1:
    """The size first, so that a subset sorts before its supersets; then ascending."""
    cdef size_t start = out.len
    cdef list parts = []
    cdef bytes part
    cdef uint8_t count[9]
    if depth >= M_DEPTH_MAX:
        return refuse(f"a member nested deeper than {M_DEPTH_MAX} levels: flatten it")
    for item in x:
        put_any(out, item, depth + 1, True)
        parts.append(PyBytes_FromStringAndSize(<char*>out.ptr + start, out.len - start))
        out.len = start
    parts.sort()
    parts = [part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1]]   # NaN twice
    count[0] = <uint8_t>whole_size(len(parts))
    store_be(count + 1, len(parts), count[0])
    put_be(out, M_FROZENSET, 0, 0)
    append(out, count, count[0] + 1)
    for part in parts:
        append(out, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
    return 0

cdef int put_any(Buf* out, object x, int depth, bint nested) except -1:
    if PyUnicode_CheckExact(x):
        return put_str(out, x, nested)
    if PyLong_CheckExact(x):
        return put_int(out, x)
    if PyFloat_CheckExact(x):
        return put_float(out, PyFloat_AS_DOUBLE(x))
    if PyTuple_CheckExact(x):
        return put_tuple(out, x, depth)
    return put_other(out, x, depth, nested)

cdef int put_other(Buf* out, object x, int depth, bint nested) except -1:
    cdef uint8_t tag
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(x, numpy.generic):
        if x.dtype.kind not in "biufcSU" or isinstance(x.item(), numpy.generic):
            refuse(f"cannot use a numpy.{type(x).__name__} as a member or field: convert it first")
        x = x.item()
    if PyUnicode_Check(x):
        return put_str(out, x, nested)
    if PyLong_Check(x):
        return put_int(out, x)
    if PyFloat_Check(x):
        return put_float(out, PyFloat_AS_DOUBLE(x))
    if PyBytes_Check(x):
        return put_text(out, M_BYTES, <uint8_t*>PyBytes_AS_STRING(x), PyBytes_GET_SIZE(x), nested)
    if PyTuple_Check(x):
        return put_tuple(out, x, depth)
    if x is None:
        tag = M_NONE
        return append(out, &tag, 1)
    if isinstance(x, frozenset):
        return put_frozenset(out, x, depth)
    if PyComplex_Check(x):
        put_complex(out, PyComplex_RealAsDouble(x), PyComplex_ImagAsDouble(x))
        return 0
    if put_standard(out, x):
        return 0
    if type(x).__hash__ is None:
        raise TypeError(f"unhashable type: '{type(x).__name__}'")
    return refuse(
        f"cannot use a {type(x).__module__}.{type(x).__qualname__} as a member or field: use None, "
        "a number, str, bytes, tuple, frozenset, date, datetime, time, timedelta or UUID"
    )

cdef int put_complex(Buf* out, double real, double imag) except -1:
    cdef uint8_t tag = M_COMPLEX
    if imag == 0:
        return put_float(out, real)
    append(out, &tag, 1)
    put_float(out, real)
    return put_float(out, imag)

cdef int put_standard(Buf* out, object x) except -1:
    """Types of the standard library; 1 if it was one."""
    cdef bytes b
    module = sys.modules.get("datetime")
    if module is not None:
        if isinstance(x, module.datetime):
            put_datetime(out, x)
            return 1
        if isinstance(x, module.date):
            put_be(out, M_DATE, x.toordinal(), 4)
            return 1
        if isinstance(x, module.time):
            put_time(out, x)
            return 1
        if isinstance(x, module.timedelta):
            put_be(out, M_TIMEDELTA, <uint32_t><int32_t>x.days ^ 0x80000000u, 4)
            put_pair(out, x.seconds, x.microseconds)
            return 1
    module = sys.modules.get("decimal")
    if module is not None and isinstance(x, module.Decimal):
        put_decimal(out, x)
        return 1
    module = sys.modules.get("uuid")
    if module is not None and isinstance(x, module.UUID):
        b = x.bytes
        put_be(out, M_UUID, 0, 0)
        append(out, PyBytes_AS_STRING(b), 16)
        return 1
    return 0

cdef int put_pair(Buf* out, uint64_t a, uint64_t b) except -1:
    cdef uint8_t both[8]
    store_be(both, a, 4)
    store_be(both + 4, b, 4)
    return append(out, both, 8)

cdef int put_datetime(Buf* out, object x) except -1:
    """An instant. An hour that a wall clock shows twice is the first one, as for Python's hash."""
    cdef int64_t us, offset_us
    cdef uint64_t bias = <uint64_t>1 << 63
    us = wall_us(x)
    offset = x.replace(fold=0).utcoffset()
    if offset is None:
        return put_be(out, M_DATETIME, <uint64_t>us, 8)
    offset_us = (<int64_t>offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds
    return put_be(out, M_AWARE, <uint64_t>(us - offset_us) ^ bias, 8)

cdef int put_time(Buf* out, object x) except -1:
    """As Python compares them: whole seconds of the offset count."""
    cdef uint64_t bias = <uint64_t>1 << 63
    cdef int64_t us = clock_us(x)
    offset = x.replace(fold=0).utcoffset()
    if offset is None:
        return put_be(out, M_TIME, <uint64_t>us, 8)
    us -= (<int64_t>offset.days * 86_400 + <int64_t>offset.seconds) * 1_000_000
    return put_be(out, M_TIME_AWARE, <uint64_t>us ^ bias, 8)

cdef int put_member(object x, Buf* out) except -1:
    cdef size_t start = out.len
    # These write nothing before they succeed, so they need no way back.
    if PyUnicode_CheckExact(x):
        return put_str(out, x, False)
    if PyLong_CheckExact(x):
        return put_int(out, x)
    if PyBytes_CheckExact(x):
        return put_text(out, M_BYTES, <uint8_t*>PyBytes_AS_STRING(x), PyBytes_GET_SIZE(x), False)
    try:
        return put_any(out, x, 0, False)
    except BaseException:
        out.len = start
        raise


# --- in -------------------------------------------------------------------------------------

cdef object as_str(const uint8_t* p, size_t n):
    try:
        return PyUnicode_DecodeUTF8(<const char*>p, n, "surrogatepass")
    except UnicodeDecodeError as error:
        corrupt(f"a string that is not UTF-8 ({error.reason})")

cdef int take(Cursor* c, size_t n, Span* s) except -1:
    if cur_take(c, n, s) != OK:
        corrupt("truncated")
        return -1
    return 0

cdef uint8_t take_digit(Cursor* c, uint8_t flip) except? 0:
    cdef uint8_t x = 0
    if cur_u8(c, &x) != OK:
        corrupt("truncated")
    return x ^ flip

cdef object get_number(Cursor* c, uint8_t tag):
    cdef uint8_t flip = 0
    cdef size_t size
    cdef Span s
    cdef uint64_t whole
    cdef double x, fraction
    cdef bytes big
    if tag < M_NUMBER:
        flip = 0xFF
        tag ^= flip
    if tag == M_BIG:
        size = <size_t>take_digit(c, flip) << 8
        size |= take_digit(c, flip)
        if size > M_WHOLE_MAX:
            return corrupt("a number past the limit")
    else:
        size = tag - M_NUMBER
    take(c, size, &s)
    if cur_left(c) and c.at[0] == flip and size <= 7:
        c.at += 1
        whole = load_be(s.ptr, size)
        if flip and size:
            whole ^= (<uint64_t>1 << (8 * size)) - 1
        return -<int64_t>whole if flip else <int64_t>whole
    if size <= 6 and get_double(c, flip, &fraction):
        whole = load_be(s.ptr, size)
        if flip and size:
            whole ^= (<uint64_t>1 << (8 * size)) - 1
        x = <double>whole + fraction
        if x - <double>whole == fraction:   # exact: both are multiples of the last place of x
            return -x if flip else x
        c.at = s.ptr + s.len
    big = PyBytes_FromStringAndSize(<const char*>s.ptr, s.len)
    if flip:
        big = bytes([byte ^ 0xFF for byte in big])
    n, d = get_fraction(c, flip)
    n += int.from_bytes(big, "big") * d
    return exact(-n if flip else n, d)

cdef bint get_double(Cursor* c, uint8_t flip, double* fraction) noexcept:
    """The fraction, if one double holds it; else the cursor stays where it was."""
    cdef Cursor ahead = c[0]
    cdef uint64_t bits = 0
    cdef uint8_t x = 0
    cdef int zeros, groups = 0
    if cur_u8(&ahead, &x) != OK:
        return False
    x ^= flip
    if x < 0x80:
        return False
    zeros = 0xFF - x
    while groups < 8 and cur_u8(&ahead, &x) == OK:
        x ^= flip
        bits = bits << 7 | x >> 1
        groups += 1
        if not x & 1:
            if <uint64_t><double>bits != bits:
                return False
            fraction[0] = ldexp(<double>bits, -(7 * groups + zeros))
            c[0] = ahead
            return True
    return False

cdef object get_fraction(Cursor* c, uint8_t flip):
    """(n, d): n / d is the fraction."""
    cdef uint8_t x = take_digit(c, flip)
    cdef int zeros, groups = 0
    if x == 0:
        return 0, 1
    if x >= 0x80:
        zeros = 0xFF - x
    else:
        zeros = 0x7FFF - (x << 8 | take_digit(c, flip))
        if zeros > 4 * M_PLACES_MAX:
            return corrupt("a number past the limit")
    n, one = 0, 1                           # Python's integers: these are wider than C's
    while True:
        x = take_digit(c, flip)
        n = n << 7 | x >> 1
        groups += 1
        if not x & 1:
            # In decimal it has about as many places as these are bits.
            if zeros > M_PLACES_MAX:
                return corrupt("a number past the limit")
            return n, one << (7 * groups + zeros)
        if groups == M_GROUPS_MAX:
            break
    n, d = 0, 1
    while True:
        x = take_digit(c, flip)
        if x == 0:
            return n, d
        n = n * 100 + x - 1
        d *= 100
        groups += 1
        if x > 100 or groups > M_GROUPS_MAX + M_PLACES_MAX // 2:
            return corrupt("a number past the limit")

cdef object exact(object n, object d):
    """n / d as int, float or Decimal: the first that holds it. d divides a power of ten."""
    if n % d == 0:
        return n // d
    try:
        x = n / d
    except OverflowError:
        x = 0.0
    a, b = x.as_integer_ratio()
    if a * d == n * b:
        return x
    from decimal import Decimal
    places = 0
    if d & (d - 1) == 0:
        places = d.bit_length() - 1
        n *= 5 ** places
    else:
        while d > 1:
            d //= 10
            places += 1
    while n % 10 == 0:
        n //= 10
        places -= 1
    digits = Decimal(n).as_tuple()
    return Decimal((digits.sign, digits.digits, -places))

cdef object get_text(Cursor* c, bint nested):
    cdef Span s
    cdef const uint8_t* zero
    cdef bytes text = b""
    if not nested:
        take(c, cur_left(c), &s)
        return PyBytes_FromStringAndSize(<const char*>s.ptr, s.len)
    parts = []
    while True:
        zero = <const uint8_t*>memchr(c.at, 0, cur_left(c)) if cur_left(c) else NULL
        if zero == NULL:
            return corrupt("truncated")
        parts.append(PyBytes_FromStringAndSize(<const char*>c.at, zero - c.at))
        c.at = zero + 1
        if cur_left(c) == 0 or c.at[0] != 0xFF:
            return b"\0".join(parts)
        c.at += 1

cdef object get_frozenset(Cursor* c, int depth):
    cdef Span s
    cdef uint64_t i, n
    cdef const uint8_t* at
    cdef bytes part, last = b""
    members = set()
    take(c, 1, &s)
    if s.ptr[0] > 8:
        return corrupt("a count past the limit")
    take(c, s.ptr[0], &s)
    n = load_be(s.ptr, s.len)
    if n > cur_left(c):
        return corrupt("a count that exceeds the bytes")
    for i in range(n):
        at = c.at
        members.add(get_any(c, depth + 1, True))
        part = PyBytes_FromStringAndSize(<const char*>at, c.at - at)
        if part <= last:
            return corrupt("members out of order")
        last = part
    return frozenset(members)

cdef object get_any(Cursor* c, int depth, bint nested):
    cdef uint8_t tag = 0
    cdef bytes text
    if depth > M_DEPTH_MAX or cur_u8(c, &tag) != OK:
        return corrupt("truncated, or too deep")
    if M_MINUS_INF < tag < M_INF:
        return get_number(c, tag)
    if tag == M_STR:
        text = get_text(c, nested)
        return as_str(<const uint8_t*>PyBytes_AS_STRING(text), len(text))
    if tag == M_BYTES:
        return get_text(c, nested)
    if tag == M_TUPLE:
        items = []
        while cur_left(c) and c.at[0] != M_END:
            items.append(get_any(c, depth + 1, True))
        if cur_left(c) == 0:
            return corrupt("truncated")
        c.at += 1
        return tuple(items)
    if tag == M_FROZENSET:
        return get_frozenset(c, depth)
    if tag == M_NONE:
        return None
    if tag == M_MINUS_INF:
        return float("-inf")
    if tag == M_INF:
        return float("inf")
    if tag == M_NAN:
        return float("nan")
    if tag == M_COMPLEX:
        return complex(get_any(c, depth + 1, True), get_any(c, depth + 1, True))
    return get_standard(c, tag)

cdef object get_standard(Cursor* c, uint8_t tag):
    cdef Span s
    cdef uint64_t bias = <uint64_t>1 << 63
    if tag == M_UUID:
        from uuid import UUID
        take(c, 16, &s)
        return UUID(bytes=PyBytes_FromStringAndSize(<const char*>s.ptr, 16))
    from datetime import date, timedelta
    if tag == M_DATE:
        take(c, 4, &s)
        return date.fromordinal(load_be(s.ptr, 4))
    if tag == M_TIMEDELTA:
        take(c, 12, &s)
        return timedelta(<int32_t>(<uint32_t>load_be(s.ptr, 4) ^ 0x80000000u),
                         load_be(s.ptr + 4, 4), load_be(s.ptr + 8, 4))
    if tag == M_DATETIME or tag == M_TIME:
        take(c, 8, &s)
        return at_clock(tag == M_TIME, <int64_t>load_be(s.ptr, 8), None, 0)
    if tag == M_AWARE or tag == M_TIME_AWARE:
        take(c, 8, &s)
        return aware(tag == M_TIME_AWARE, <int64_t>(load_be(s.ptr, 8) ^ bias))
    return corrupt(f"unknown tag 0x{tag:02x}")

cdef object aware(bint is_time, int64_t us):
    """In UTC; what has no date or no clock there, in the nearest zone that gives it one."""
    from datetime import timedelta, timezone
    cdef int64_t end = DAY_US if is_time else DAYS * DAY_US
    cdef int64_t offset = 0
    cdef int64_t unit = 1_000_000 if is_time else 1       # Python compares times by whole seconds
    if us <= -DAY_US or us >= end + DAY_US:
        return corrupt("a time out of range")
    if us < 0:
        offset = (-us + unit - 1) // unit * unit
    elif us >= end:
        offset = -((us - end) // unit + 1) * unit
    if offset == 0:
        return at_clock(is_time, us, timezone.utc, 0)
    return at_clock(is_time, us + offset, timezone(timedelta(microseconds=offset)), 0)

cdef object get_member(const uint8_t* p, size_t n):
    cdef Cursor c = cursor(span(p, n))
    cdef Buf again
    if n == 0:
        return corrupt("empty")
    if p[0] == M_STR:
        return as_str(p + 1, n - 1)
    if p[0] == M_BYTES:
        return PyBytes_FromStringAndSize(<const char*>p + 1, n - 1)
    if M_NUMBER < p[0] < M_NUMBER + 8 and n + M_NUMBER == <size_t>p[0] + 2:
        if p[1] and not p[n - 1]:           # a positive integer in its canonical form
            return <int64_t>load_be(p + 1, n - 2)
    try:
        x = get_any(&c, 0, False)
    except (ValueError, OverflowError, ArithmeticError, TypeError) as error:
        if type(error).__module__.startswith("annapy."):
            raise
        return corrupt(str(error))
    if cur_left(&c):
        return corrupt(f"{cur_left(&c)} bytes too many")
    # One encoding for equal members: so the bytes must be the ones that this value has.
    buf_init(&again)
    try:
        try:
            put_member(x, &again)
        except TypeError as error:          # SerializationError is one: past a limit
            corrupt(str(error))
        if again.len != n or memcmp(again.ptr, p, n) != 0:
            corrupt("not the canonical form")
    finally:
        buf_free(&again)
    return x
