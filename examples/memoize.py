"""Remember what a slow function returned, for ten minutes, across calls and restarts."""
import annapy

store = annapy.open()  # in memory; give a directory to remember across restarts
calls = []


@store.memoize(ttl="10m", key="square:{n}")
def square(n: int) -> int:
    """Stands for a call to another service."""
    calls.append(n)
    return n * n


print([square(n) for n in (2, 3, 2, 3, 2)], "computed:", calls)
square.invalidate(2)
print(square(2), "computed:", calls)

# -> [4, 9, 4, 9, 4] computed: [2, 3]
# -> 4 computed: [2, 3, 2]
