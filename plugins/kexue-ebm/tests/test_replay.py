"""The buffer gives what was put in, restarts as often as it says, and survives a state dict."""

import pytest
import torch
from kexue_ebm.replay import ReplayBuffer, dequantize


def test_dequantization_fills_the_bins() -> None:
    levels = torch.arange(256).repeat(4, 1)
    x = dequantize(levels, torch.rand(4, 256))
    assert 0 <= x.min() <= x.max() < 1
    assert torch.equal((256 * x).floor().long(), levels)


def test_what_is_put_in_comes_out_within_a_level() -> None:
    torch.manual_seed(0)
    replay = ReplayBuffer(10, (1, 4, 4), restart=0.0)
    x = torch.rand(3, 1, 4, 4)
    replay.put(torch.tensor([7, 2, 5]), x)
    choice = torch.tensor([[0.75, 0.5], [0.21, 0.5], [0.59, 0.0]])
    kept, entries = replay.start(choice, torch.rand(3, 1, 4, 4))
    assert entries.tolist() == [7, 2, 5]
    assert (kept - x).abs().max() <= 1 / 256 + 1e-6
    replay.put(torch.tensor([0, 1]), torch.tensor([-1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4))
    assert replay.data[0].unique().tolist() == [0]
    assert replay.data[1].unique().tolist() == [255]


def test_of_several_chains_with_one_entry_the_last_is_kept() -> None:
    replay = ReplayBuffer(4, (1,), quantized=False)
    replay.put(torch.tensor([2, 1, 2, 2]), torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    assert replay.data[2].item() == 4
    assert replay.data[1].item() == 2


def test_a_share_of_chains_starts_from_noise() -> None:
    torch.manual_seed(0)
    replay = ReplayBuffer(100, (2,), restart=0.05)
    replay.data.fill_(0)
    x, _ = replay.start(torch.rand(20_000, 2), torch.rand(20_000, 2))
    share = (x.amax(1) > 1 / 256).double().mean()
    assert share.item() == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 20_000) ** 0.5)


def test_all_entries_are_chosen_alike() -> None:
    torch.manual_seed(0)
    replay = ReplayBuffer(20, (1,))
    _, entries = replay.start(torch.rand(40_000, 2), torch.rand(40_000, 1))
    counts = entries.bincount(minlength=20).double()
    chi2 = ((counts - 2_000).square() / 2_000).sum()
    assert chi2 < 43.8  # 99.9 % of the chi-squared distribution with 19 degrees of freedom


def test_a_buffer_without_quantization_keeps_floats_in_its_range() -> None:
    torch.manual_seed(0)
    replay = ReplayBuffer(1_000, (2,), restart=1.0, quantized=False, low=-4.0, high=2.0)
    assert -4 <= replay.data.min() < -3.9
    assert 1.9 < replay.data.max() <= 2
    x, _ = replay.start(torch.rand(1_000, 2), torch.rand(1_000, 2))
    assert -4 <= x.min() < -3.9
    assert 1.9 < x.max() <= 2


def test_a_state_dict_keeps_the_buffer() -> None:
    replay, other = ReplayBuffer(5, (1, 2, 2)), ReplayBuffer(5, (1, 2, 2))
    assert not torch.equal(replay.data, other.data)
    other.load_state_dict(replay.state_dict())
    assert torch.equal(replay.data, other.data)
    assert not list(replay.parameters())


@pytest.mark.parametrize("options", [{"size": 0}, {"restart": 1.5}, {"low": 1.0, "high": 1.0}])
def test_nonsense_is_refused(options) -> None:
    with pytest.raises(ValueError, match="must be"):
        ReplayBuffer(**{"size": 3, "shape": (1,), **options})
