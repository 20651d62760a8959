"""For your own tests: check that a lattice is one, and make values of the built-in types.

    check_lattice(T, strategy)     every law, with Hypothesis; for T built in or your own
    campaign(T, examples)          the same laws on native states in a plain loop: fast and dull
    histories.triples(T)           three values of a built-in type that met in one history

Needs Hypothesis: `pip install annapy[test]`, or `pip install hypothesis`.
"""

from __future__ import annotations

from annapy.testing.laws import LawBroken, Report, campaign, check_lattice

__all__ = ["LawBroken", "Report", "campaign", "check_lattice"]
