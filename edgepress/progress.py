"""How long work reports its progress: functions take a `track` and wrap their outer loop in it."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable (of known length, where it has one) under a description, and yields its items."""

    def __call__(self, items: Iterable[T], description: str) -> Iterator[T]: ...


def silent(items: Iterable[T], description: str) -> Iterator[T]:
    """Track nothing."""
    del description
    yield from items


def length(items: Iterable[object]) -> int | None:
    return len(items) if isinstance(items, Sized) else None
