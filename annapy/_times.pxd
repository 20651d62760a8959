# cython: language_level=3
"""Dates, clocks and time zones as bytes, for values.pyx and members.pyx; see _times.pyx."""
from libc.stdint cimport int64_t

from annapy._core.codec cimport Buf, Cursor

cdef int64_t clock_us(object x) except? -1
# Microseconds since midnight on the wall clock of a datetime or a time.
cdef int64_t wall_us(object x) except? -1
# Microseconds since 0001-01-01 on the wall clock of a datetime. SerializationError.
cdef object at_clock(bint is_time, int64_t us, object tz, int fold)
# The time or datetime whose clock_us or wall_us that is. ValueError: there is none.
cdef int put_clock(object x, bint is_time, Buf* out) except -1
# Appends flags, microseconds, zone. SerializationError.
cdef object get_clock(bint is_time, Cursor* c)
# ValueError, OverflowError: not what put_clock writes.
cdef int put_timedelta(object x, Buf* out) except -1
cdef object get_timedelta(Cursor* c)
