"""The order in which hash tables are walked."""

from hypothesis import given
from hypothesis import strategies as st

from bpfleet.kernel.bpf.maps.hlist import HashLists


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_walking_is_bucket_order_newest_first(steps):
    lists = HashLists()
    buckets: dict[int, list[bytes]] = {}
    for adds, number in steps:
        key, bucket = bytes([number]), number % 4
        chain = buckets.setdefault(bucket, [])
        known = key in chain
        if known:
            chain.remove(key)
        if adds:
            chain.insert(0, key)
            lists.add(key, bucket)
        elif known:
            lists.remove(key)
    expected = [key for bucket in sorted(buckets) for key in buckets[bucket]]
    walked, key = [], lists.after(None)
    while key is not None:
        walked.append(key)
        key = lists.after(key)
    assert walked == expected
    assert len(lists) == len(expected)
    assert lists.after(b"unknown") == (expected[0] if expected else None)
