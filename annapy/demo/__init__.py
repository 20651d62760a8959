"""The demonstration: a small prediction service whose state lives in a store.

    data.py        the images: what is in the stream, what is held out
    functions.py   f(g(x)): the two functions, ordinary Python that takes `state`
    run.py         opens a store, replays the stream, measures
    report.py      what the user sees
    make_data.py   makes the package data from the published file

Only `annapy.cli` imports this package; it needs numpy.
"""

__all__: list[str] = []
