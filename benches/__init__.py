"""Measurements of annapy beside what people use today, all in one run.

One file a claim. Each claim is measured twice: as pytest-benchmark tests (tables of absolute times,
one group a claim), and as a ratio from interleaved repeats, which is what counts on a noisy machine
and what the summary at the end prints beside its target. Nothing is asserted about time.
"""
