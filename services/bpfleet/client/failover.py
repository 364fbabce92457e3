"""One channel over several servers of which one answers at a time: coordinators, of which one leads."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

__all__ = ["FailoverChannel"]


# Any: grpc types its callables by the messages of one method; these serve them all.
class FailoverChannel(grpc.Channel):
    """Calls go to the current one of ``channels``; `turn` goes on to the next. Stubs made on it follow."""

    def __init__(self, channels: Sequence[grpc.Channel]) -> None:
        self._channels: Final = tuple(channels)
        self.current = 0

    def turn(self) -> None:
        """Goes on to the next server."""
        self.current = (self.current + 1) % len(self._channels)

    def __len__(self) -> int:
        return len(self._channels)

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call of the current server, as for the other three kinds."""
        return self._follows([each.unary_unary(*arguments, **options) for each in self._channels])

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See ``unary_unary``."""
        return self._follows([each.unary_stream(*arguments, **options) for each in self._channels])

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See ``unary_unary``."""
        return self._follows([each.stream_unary(*arguments, **options) for each in self._channels])

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """See ``unary_unary``."""
        return self._follows([each.stream_stream(*arguments, **options) for each in self._channels])

    def _follows(self, calls: Sequence[Any]) -> "_Following":
        return _Following(self, calls)

    def subscribe(self, callback: Callable[..., Any], try_to_connect: bool = False) -> None:
        """Tells the states of every connection."""
        for each in self._channels:
            each.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[..., Any]) -> None:
        """Ends that."""
        for each in self._channels:
            each.unsubscribe(callback)

    def close(self) -> None:
        """Ends all connections."""
        for each in self._channels:
            each.close()

    def __enter__(self) -> "FailoverChannel":
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


class _Following:
    """One method on every server; what it does is done on the current one."""

    def __init__(self, owner: FailoverChannel, calls: Sequence[Any]) -> None:
        self._owner: Final = owner
        self._calls: Final = tuple(calls)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._calls[self._owner.current](*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls[self._owner.current], name)
