# cython: language_level=3
"""Dates, clocks and time zones as bytes.

Owns     the payloads of datetime, time and timedelta values, and the arithmetic that members share.
Callers  values.pyx and members.pyx, holding the GIL. `datetime` is imported when it is met.

    clock      u8 flags: bit 0 fold, bits 1.. kind of zone · i64 microseconds on the wall clock
               zone 0 none, 1 UTC · 2 an offset: i64 microseconds · 3 an offset, then its counted
               name · 4 the counted key of a zoneinfo
    timedelta  i32 days, u32 seconds < 86400, u32 microseconds < 10**6

Invariants
    what is read back is equal, has the same fold, and a zone of the same type, offset and name
    whatever is read was written here, or it is a ValueError
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from annapy._core.codec cimport (
    OK, Buf, Cursor, Span, buf_reserve, cur_counted, cur_take, cur_u64, load_u32, load_u64,
    store_u32, store_u64, varint_store,
)

__all__: list[str] = []

cdef int64_t DAY_US = 86_400_000_000
cdef int64_t DAYS = 3_652_059              # datetime.MAXYEAR-12-31 as an ordinal

cdef enum Zone:
    ZONE_NONE = 0
    ZONE_UTC = 1
    ZONE_OFFSET = 2
    ZONE_NAMED = 3
    ZONE_KEY = 4


cdef int refuse(str message) except -1:
    from annapy.errors import SerializationError
    raise SerializationError(message)

cdef uint8_t* room(Buf* out, size_t n) except NULL:
    cdef uint8_t* to = buf_reserve(out, n)
    if to == NULL:
        raise MemoryError("no memory to encode a value")
    return to


# --- out ------------------------------------------------------------------------------------

cdef int64_t clock_us(object x) except? -1:
    cdef int64_t hour = x.hour, minute = x.minute, second = x.second, us = x.microsecond
    return ((hour * 60 + minute) * 60 + second) * 1_000_000 + us

cdef int64_t wall_us(object x) except? -1:
    cdef int64_t ordinal
    if getattr(x, "nanosecond", 0):
        refuse(f"cannot store a {type(x).__name__} without loss: it has nanoseconds")
    try:
        ordinal = x.toordinal()
        return (ordinal - 1) * DAY_US + clock_us(x)
    except (TypeError, ValueError) as error:       # pandas.NaT is a datetime, and has no date
        refuse(f"cannot store {x!r}: {error}")

cdef int put_name(str name, Buf* out) except -1:
    cdef bytes b = name.encode("utf-8", "surrogatepass")
    cdef size_t n = PyBytes_GET_SIZE(b)
    cdef uint8_t* to = varint_store(room(out, n + 10), n)
    memcpy(to, PyBytes_AS_STRING(b), n)
    out.len = to + n - out.ptr
    return 0

cdef int kind_of(object tz) except -1:
    from datetime import timezone
    if tz is None:
        return ZONE_NONE
    if tz is timezone.utc:
        return ZONE_UTC
    if type(tz) is timezone:
        return ZONE_NAMED if len(timezone.__getinitargs__(tz)) == 2 else ZONE_OFFSET
    if type(tz).__module__ == "zoneinfo" and isinstance(getattr(tz, "key", None), str):
        return ZONE_KEY
    return refuse(
        f"cannot store a time zone of type {type(tz).__module__}.{type(tz).__qualname__}: use "
        "datetime.timezone or a zoneinfo.ZoneInfo that has a key"
    )

cdef int put_clock(object x, bint is_time, Buf* out) except -1:
    from datetime import timedelta
    tz = x.tzinfo
    cdef int fold = x.fold, kind = kind_of(tz)
    cdef int64_t us = clock_us(x) if is_time else wall_us(x)
    cdef int64_t offset
    cdef uint8_t* to = room(out, 17)
    to[0] = <uint8_t>(fold | kind << 1)
    store_u64(to + 1, <uint64_t>us)
    out.len += 9
    if kind == ZONE_OFFSET or kind == ZONE_NAMED:
        offset = tz.utcoffset(None) // timedelta(microseconds=1)
        store_u64(room(out, 8), <uint64_t>offset)
        out.len += 8
    if kind == ZONE_NAMED:
        put_name(tz.tzname(None), out)
    elif kind == ZONE_KEY:
        put_name(tz.key, out)
    return 0

cdef int put_timedelta(object x, Buf* out) except -1:
    cdef int32_t days = x.days
    cdef uint32_t seconds = x.seconds, us = x.microseconds
    cdef uint8_t* to = room(out, 12)
    store_u32(to, <uint32_t>days)
    store_u32(to + 4, seconds)
    store_u32(to + 8, us)
    out.len += 12
    return 0


# --- in -------------------------------------------------------------------------------------

cdef object at_clock(bint is_time, int64_t us, object tz, int fold):
    from datetime import date, datetime, time
    cdef int64_t day
    if us < 0 or us >= (DAY_US if is_time else DAYS * DAY_US):
        raise ValueError("a time out of range")
    day = us // DAY_US
    us %= DAY_US
    parts = (us // 3_600_000_000, us // 60_000_000 % 60, us // 1_000_000 % 60, us % 1_000_000, tz)
    if is_time:
        return time(*parts, fold=fold)
    d = date.fromordinal(day + 1)
    return datetime(d.year, d.month, d.day, *parts, fold=fold)

cdef str get_name(Cursor* c):
    cdef Span s
    if cur_counted(c, &s) != OK:
        raise ValueError("truncated")
    return PyBytes_FromStringAndSize(<const char*>s.ptr, s.len).decode("utf-8", "surrogatepass")

cdef object get_offset(Cursor* c, int kind):
    from datetime import timedelta, timezone
    cdef uint64_t raw = 0
    if cur_u64(c, &raw) != OK:
        raise ValueError("truncated")
    offset = timedelta(microseconds=<int64_t>raw)
    if kind == ZONE_NAMED:
        return timezone(offset, get_name(c))
    if raw == 0:
        raise ValueError("UTC spelled as an offset of zero")
    return timezone(offset)

cdef object get_zone(Cursor* c, int kind):
    if kind == ZONE_NONE:
        return None
    if kind == ZONE_UTC:
        from datetime import timezone
        return timezone.utc
    if kind == ZONE_OFFSET or kind == ZONE_NAMED:
        return get_offset(c, kind)
    key = get_name(c)
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError
    try:
        return ZoneInfo(key)
    except (ZoneInfoNotFoundError, OSError):
        refuse(f"time zone {key[:64]!r} is unknown on this machine: install tzdata")

cdef object get_clock(bint is_time, Cursor* c):
    cdef Span s
    if cur_take(c, 9, &s) != OK or s.ptr[0] > (ZONE_KEY << 1 | 1):
        raise ValueError("a broken time")
    tz = get_zone(c, s.ptr[0] >> 1)
    return at_clock(is_time, <int64_t>load_u64(s.ptr + 1), tz, s.ptr[0] & 1)

cdef object get_timedelta(Cursor* c):
    from datetime import timedelta
    cdef Span s
    if cur_take(c, 12, &s) != OK:
        raise ValueError("truncated")
    if load_u32(s.ptr + 4) >= 86_400 or load_u32(s.ptr + 8) >= 1_000_000:
        raise ValueError("a duration that is not normalised")
    return timedelta(<int32_t>load_u32(s.ptr), load_u32(s.ptr + 4), load_u32(s.ptr + 8))
