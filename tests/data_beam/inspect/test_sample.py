"""What is looked at of more than can be: the same whatever the order, rare groups whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_beam.inspect.sample import Sample


def even_shares(sizes: dict[str, int], limit: int) -> dict[str, int]:
    """One for each group that has more, again and again: the obvious twin. The last round goes by name."""
    shares = dict.fromkeys(sizes, 0)
    while sum(shares.values()) < min(limit, sum(sizes.values())):
        for group in sorted(sizes):
            if shares[group] < sizes[group] and sum(shares.values()) < limit:
                shares[group] += 1
    return shares


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 12), min_size=1), st.integers(1, 30), st.randoms())
def test_the_sample_is_even_and_does_not_depend_on_the_order(sizes, limit, random):
    # Ranks are unique over all, as hashes are; an outcome's number is its rank here.
    ranks = list(range(sum(sizes.values())))
    random.shuffle(ranks)
    offered = [(group, ranks.pop()) for group, size in sizes.items() for _ in range(size)]
    shares = even_shares(sizes, limit)
    wanted = {group: sorted(rank for name, rank in offered if name == group)[: shares[group]] for group in sizes}
    random.shuffle(offered)
    sample, held = Sample(limit), {}
    for group, rank in offered:
        if sample.wants(group, rank):
            held[rank] = group
            pushed_out = sample.add(group, rank, rank)
            if pushed_out is not None:
                del held[pushed_out]
    assert {group: sorted(rank for rank in held if held[rank] == group) for group in sizes} == wanted
