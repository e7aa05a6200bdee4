"""A few threads that work on tasks, whose results come in the order of the tasks."""

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Pool(Generic[Task, Result]):
    """Threads that live as long as the block; whoever leaves it does not wait for what they are at.

    Not a ThreadPoolExecutor: Ctrl-C inside its submit leaves a lock held, and its end then waits for ever. These queues
    are C, which an exception cannot leave half done, and daemon threads are not waited for.

    Args:
        threads: how many.
        work: a task -> its result, in any of the threads.
    """

    def __init__(self, threads: int, work: Callable[[Task], Result]) -> None:
        self._threads, self._work = threads, work
        self._tasks: SimpleQueue[Any] = SimpleQueue()
        self._results: deque[SimpleQueue[Any]] = deque()
        self._started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        for _ in range(self._started):
            self._tasks.put(None)

    def __len__(self) -> int:
        """Tasks whose results have not been taken."""
        return len(self._results)

    def put(self, task: Task) -> None:
        if self._started < self._threads:
            self._started += 1
            Thread(target=_serve, args=(self._tasks, self._work), daemon=True).start()
        self._results.append(SimpleQueue())
        self._tasks.put((task, self._results[-1]))

    def get(self) -> Result:
        """The next task's result; waits for it, and raises what its work raised."""
        found, error = self._results.popleft().get()
        if error is not None:
            raise error
        return found


def _serve(tasks: "SimpleQueue[Any]", work: Callable[[Any], Any]) -> None:
    """A thread: until None comes."""
    while (asked := tasks.get()) is not None:
        task, reply = asked
        try:
            reply.put((work(task), None))
        except Exception as error:
            reply.put((None, error))
        del asked, task, reply  # a file's bytes are not held until the next one comes
