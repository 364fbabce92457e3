"""Hash buckets as Linux walks them: buckets ascending, newest first within one [include/linux/list.h, hlist]."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import Final, final


@final
class HashLists:
    """The order of keys in a table of ``buckets`` buckets. Memory grows with keys, not with buckets."""

    __slots__ = ("_bucket_of", "_heads", "_used")

    def __init__(self) -> None:
        self._heads: Final[dict[int, list[bytes]]] = {}  # bucket -> keys, newest last
        self._bucket_of: Final[dict[bytes, int]] = {}
        self._used: Final[list[int]] = []  # non-empty buckets, ascending

    def __len__(self) -> int:
        return len(self._bucket_of)

    def add(self, key: bytes, bucket: int) -> None:
        """hlist_add_head. A key already there is moved to the head."""
        if key in self._bucket_of:
            self.remove(key)
        head = self._heads.get(bucket)
        if head is None:
            self._heads[bucket] = [key]
            insort(self._used, bucket)
        else:
            head.append(key)
        self._bucket_of[key] = bucket

    def add_many(self, placed: Iterable[tuple[bytes, int]]) -> None:
        """`add` of (key, bucket) pairs in order, all of them new."""
        heads, bucket_of = self._heads, self._bucket_of
        fresh: list[int] = []
        for key, bucket in placed:
            head = heads.get(bucket)
            if head is None:
                heads[bucket] = [key]
                fresh.append(bucket)
            else:
                head.append(key)
            bucket_of[key] = bucket
        if fresh:
            self._used.extend(sorted(fresh))
            self._used.sort()  # two sorted runs: one merge

    def remove(self, key: bytes) -> None:
        """hlist_del."""
        bucket = self._bucket_of.pop(key)
        head = self._heads[bucket]
        head.remove(key)
        if not head:
            del self._heads[bucket]
            del self._used[bisect_left(self._used, bucket)]

    def remove_many(self, keys: Iterable[bytes]) -> None:
        """`remove` of keys that are all there."""
        heads, bucket_of = self._heads, self._bucket_of
        before = len(heads)
        for key in keys:
            bucket = bucket_of.pop(key)
            head = heads[bucket]
            if len(head) == 1:
                del heads[bucket]
            else:
                head.remove(key)
        if len(heads) < before:
            self._used[:] = [bucket for bucket in self._used if bucket in heads]

    def after(self, key: bytes | None) -> bytes | None:
        """The key after ``key`` in walking order; the first for None or an unknown key; None at the end."""
        position = 0
        bucket = None if key is None else self._bucket_of.get(key)
        if bucket is not None:
            assert key is not None
            head = self._heads[bucket]
            at = head.index(key)
            if at:
                return head[at - 1]
            position = bisect_right(self._used, bucket)
        if position == len(self._used):
            return None
        return self._heads[self._used[position]][-1]

    def used_from(self, bucket: int) -> int | None:
        """The first non-empty bucket at ``bucket`` or after it; None if all are empty."""
        at = bisect_left(self._used, bucket)
        return self._used[at] if at < len(self._used) else None

    def keys_from(self, bucket: int, room: int) -> tuple[list[bytes], int | None]:
        """Keys of whole buckets from ``bucket`` on, as many as fit ``room``; the first bucket left out, if any."""
        keys: list[bytes] = []
        heads, used = self._heads, self._used
        for at in range(bisect_left(used, bucket), len(used)):
            head = heads[used[at]]
            if len(head) == 1:
                if len(keys) == room:
                    return keys, used[at]
                keys.append(head[0])
                continue
            if len(keys) + len(head) > room:
                return keys, used[at]
            keys += head[::-1]
        return keys, None

    def count_in(self, bucket: int) -> int:
        """Keys of one bucket."""
        return len(self._heads.get(bucket, ()))
