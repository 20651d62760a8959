"""Count events from many threads; none is lost, and the sum is on disk afterwards."""
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import annapy

directory = Path(tempfile.mkdtemp()) / "store"

with annapy.open(directory) as store:

    def handle(number: int) -> None:
        """One event: two counters, one maximum."""
        store.counter("hits").add(1)
        store.counter(f"hits:{number % 2}").add(1)
        store.maxint("largest").observe(number)

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(handle, range(1000)))
    store["hits"] += 10  # the same operation, written as a dict would have it

with annapy.open(directory) as store:  # opened again: everything is still there
    print(store["hits"], store["hits:0"], store["largest"])

# -> 1010 500 999
