/* The real memory orders with a mistake that the race tests must catch. Stands in for atomics.h,
 * which is beside it under another name.
 *
 *     ANNAPY_PLANTED_RACE == 1    shared payload is copied as plain bytes, not as atomic words
 *     ANNAPY_PLANTED_RACE == 2    what is published is not ordered before the store that does so
 */
#include "atomics_real.h"

#if ANNAPY_PLANTED_RACE == 1
#define annapy_words_out(to, from, n) memcpy((to), (from), (n))
#define annapy_words_in(to, from, n) memcpy((to), (from), (n))
#elif ANNAPY_PLANTED_RACE == 2
#undef annapy_store_release
#define annapy_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#endif
