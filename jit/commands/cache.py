"""`probeloom cache`."""

from __future__ import annotations

from codecache.store import Store
from jit import console


def info() -> None:
    """Print where the store is, what it holds and what it may hold."""
    store = Store.open()
    found = store.info()
    store.close()
    print(f"directory  {found.directory}")
    print(f"regions    {found.entries}")
    print(f"plans      {found.plans}")
    print(f"size       {found.bytes} bytes of at most {found.limit}")
    if found.note:
        console.note(found.note)


def clear() -> None:
    """Empty the store."""
    store = Store.open()
    before = store.info()
    store.clear()
    note = store.note
    store.close()
    if note:
        console.note(note)
    else:
        print(f"{before.directory}: {before.entries} regions and {before.plans} plans removed")
