import math

import pytest
import torch
from kexue_flow.losses import FlowNLL


def test_a_uniform_density_costs_the_bits_of_the_data():
    # p(x) = 1 on [0, 1]^D: each of the 2^bits values of a dimension is equally likely.
    for bits in (1, 5, 8):
        assert FlowNLL(bits=bits)(torch.zeros(3), dims=10).item() == bits


def test_one_nat_a_dimension_is_1_4427_bits():
    loss = FlowNLL(bits=0, reduction="none")(torch.tensor([-12.0, 24.0]), dims=12)
    assert loss.tolist() == pytest.approx([1 / math.log(2), -2 / math.log(2)])


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="mean, sum, none"):
        FlowNLL(reduction="average")
    with pytest.raises(ValueError, match="bits"):
        FlowNLL(bits=-1)
