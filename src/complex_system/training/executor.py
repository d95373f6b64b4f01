"""Where the fits of a search or a cross-validation run: one after another in this process, or as ``training.cluster`` spreads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from typing_extensions import override

Look = Callable[[], None]
"""Called often while something runs; an exception that it raises ends that."""

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


def never() -> None:
    """Look at nothing: the :data:`Look` of those who do not end anything."""


class Tasks(Protocol[T_contra, R_co]):
    """Runs a function for items."""

    def __call__(self, items: Iterable[T_contra], look: Look) -> Generator[R_co, None, None]:
        """Return the results in the order of the items; closing the generator gives up those that are not there yet.

        An exception of the function, or of ``look``, is raised where its result is asked for.
        """
        ...


class Executor(ABC):
    """Runs a function for many items. Its results are the same, and in the same order, whichever executor it is."""

    @abstractmethod
    def tasks(self, function: Callable[[T, Look], R], look: Look = never) -> AbstractContextManager[Tasks[T, R]]:
        """Make tasks of a function; what of them still runs when the context ends is given up.

        Args:
            function: Takes an item, and what it calls often. Whatever it needs is a part of it, so that it travels once: a module's
                function, or an object of a module's class that pickles. Its result depends on the item alone.
            look: Called often until tasks can run; an exception that it raises ends that.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what later tasks may need; when there are some again, it is made anew."""


class Sequential(Executor):
    """Runs the tasks one after another in the caller's thread, each when its result is asked for."""

    @override
    @contextmanager
    def tasks(self, function: Callable[[T, Look], R], look: Look = never) -> Iterator[Tasks[T, R]]:
        def run(items: Iterable[T], look: Look) -> Generator[R, None, None]:
            for item in items:
                yield function(item, look)

        yield run

    @override
    def close(self) -> None:
        pass


SEQUENTIAL = Sequential()
