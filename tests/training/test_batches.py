from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kexue_core.training.batches import Order, Prefetch
from kexue_core.training.seeding import derive

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**40)


@settings(max_examples=40, deadline=None)
@given(n=sizes, batch_size=sizes, seed=seeds)
def test_every_epoch_is_a_permutation(n: int, batch_size: int, seed: int) -> None:
    order = Order(n, batch_size, seed)
    steps = -(-3 * n // batch_size)
    stream = [i for t in range(steps) for i in order.indices(t)]
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(max_examples=40, deadline=None)
@given(n=sizes, batch_size=sizes, seed=seeds, steps=st.lists(st.integers(0, 200), max_size=8))
def test_a_batch_depends_on_seed_and_step_alone(
    n: int, batch_size: int, seed: int, steps: list[int]
) -> None:
    order = Order(n, batch_size, seed)
    for t in steps:  # in any order, with any history
        assert order.indices(t) == Order(n, batch_size, seed).indices(t)


def test_epochs_and_seeds_differ() -> None:
    order = Order(50, 50, 0)
    assert order.indices(0) != order.indices(1)
    assert order.indices(0) != Order(50, 50, 1).indices(0)


def test_derived_seeds_do_not_collide_between_purposes() -> None:
    # seed + step would: step 1 of seed 0 is step 0 of seed 1.
    found = {derive(s, "step", t) for s in range(40) for t in range(40)}
    assert len(found) > 1_600 - 3  # 32 bits: a birthday collision among 1,600 has odds of 1:3000


def test_prefetch_gives_every_batch_once_and_in_order() -> None:
    with Prefetch(lambda t: {"x": torch.tensor(t)}, 3, 9) as batches:
        assert [int(batches.take()["x"]) for _ in range(6)] == [3, 4, 5, 6, 7, 8]


def test_prefetch_works_ahead() -> None:
    fetched = threading.Event()

    def fetch(t: int) -> dict[str, torch.Tensor]:
        if t == 1:
            fetched.set()
        return {}

    with Prefetch(fetch, 0, 5):
        assert fetched.wait(5), "batch 1 is fetched before batch 0 was asked for"


def test_prefetch_raises_where_the_batch_is_taken() -> None:
    def fetch(t: int) -> dict[str, torch.Tensor]:
        if t == 1:
            raise ValueError("broken")
        return {}

    with Prefetch(fetch, 0, 5) as batches:
        batches.take()
        with pytest.raises(ValueError, match="broken"):
            batches.take()
