"""What all tests share: Hypothesis profiles, and a seed that is printed and can be replayed.

ANNAPY_PROFILE=fast (default) or long chooses the number of examples. A failing property prints
`@reproduce_failure`; `--hypothesis-seed=N` replays a whole run.
"""
from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

settings.register_profile(
    "fast", max_examples=200, deadline=None, print_blob=True, suppress_health_check=SLOW
)
settings.register_profile(
    "long", max_examples=10_000, deadline=None, print_blob=True, suppress_health_check=SLOW
)
settings.load_profile(os.environ.get("ANNAPY_PROFILE", "fast"))
