"""Keep users' sessions for half an hour after their last request, in 64 MiB at most."""
import annapy

store = annapy.open(capacity="64MiB", evict="sieve", ttl="30m")
sessions = store.namespace("session:")


def handle(user: str, page: str) -> int:
    """One request: how many pages this user has seen."""
    session = sessions.get(user, {"pages": []})
    session["pages"].append(page)
    sessions[user] = session
    return len(session["pages"])


handle("ada", "/")
handle("ada", "/cart")
handle("bob", "/")
print(sessions["ada"], f"expires within {round(store.ttl('session:ada') / 60)} minutes")
print(sorted(sessions), sorted(store))
sessions.clear()
print(len(store))

# -> {'pages': ['/', '/cart']} expires within 30 minutes
# -> ['ada', 'bob'] ['session:ada', 'session:bob']
# -> 0
