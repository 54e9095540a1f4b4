"""The UniLM mask and the cache of keys and values, against one token after the other."""

from __future__ import annotations

import pytest
import torch
from kexue_roformer_sim.encoder import Encoder, EncoderConfig, allowed, rotate, rotation
from torch import Tensor

SIZES = {
    "vocab_size": 60,
    "embedding_size": 12,
    "hidden_size": 24,
    "layers": 3,
    "heads": 3,
    "intermediate_size": 40,
}


def encoder(**settings: object) -> Encoder:
    torch.manual_seed(0)
    net = Encoder(EncoderConfig(**{**SIZES, **settings}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.double().eval()


def pair(first: int, second: int) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(1, 60, (1, first + second), generator=torch.Generator().manual_seed(3))
    return tokens, (torch.arange(first + second) >= first).long()[None]


def test_the_mask_by_its_definition() -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 0], [5, 6, 0, 0, 0], [0, 0, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    found = allowed(tokens, segments)[:, 0]
    for n in range(2):
        for i in range(5):
            for j in range(5):
                prefix = int(segments[n, : j + 1].sum()) <= int(segments[n, : i + 1].sum())
                assert found[n, i, j] == (prefix and bool(tokens[n, j]))
    assert found[0, 0].tolist() == [True, True, False, False, False]
    assert found[0, 2].tolist() == [True, True, True, False, False]
    assert found[2].all()


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_logits_equal_a_slow_reference_with_and_without_the_cache(positions: str) -> None:
    net = encoder(positions=positions)
    tokens, segments = pair(6, 5)
    with torch.no_grad():
        together = net(tokens, segments, True).logits
        _, past = net.run(tokens[:, :6])
        for i in range(6, 11):
            # From the beginning for every token: no row may see what is not there yet.
            slow = net(tokens[:, : i + 1], segments[:, : i + 1], True).logits[:, -1]
            hidden, past = net.run(tokens[:, i : i + 1], segments[:, i : i + 1], past)
            torch.testing.assert_close(together[:, i], slow, rtol=0, atol=1e-12)
            torch.testing.assert_close(net.predict(hidden[:, -1]), slow, rtol=0, atol=1e-12)


def test_logits_where_they_are_asked_for() -> None:
    net = encoder()
    tokens, segments = pair(4, 4)
    predict = torch.rand(tokens.shape) < 0.5
    with torch.no_grad():
        everywhere = net(tokens, segments, True).logits
        found = net(tokens, segments, predict).logits
        torch.testing.assert_close(found, everywhere[predict], rtol=0, atol=1e-12)
        assert net(tokens, segments).logits is None


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_vector_does_not_see_the_second_segment(pooling: str) -> None:
    net = encoder(pooling=pooling, token_weights=pooling == "mean")
    tokens, segments = pair(6, 5)
    with torch.no_grad():
        alone = net(tokens[:, :6]).vector
        torch.testing.assert_close(net(tokens, segments).vector, alone, rtol=0, atol=1e-12)
        other = tokens.clone()
        other[:, 6:] = 9
        assert torch.equal(net(other, segments).hidden[:, :6], net(tokens, segments).hidden[:, :6])


def test_rope_turns_neighbours_as_published() -> None:
    # Equation (34) of the paper, on interleaved pairs, in plain Python.
    q = torch.randn(7, 8, dtype=torch.float64)
    halves = torch.cat([q[:, 0::2], q[:, 1::2]], -1)
    turned = rotate(halves, rotation(torch.arange(7), 8, torch.float64))
    for m in range(7):
        for i in range(4):
            angle = torch.tensor(m * 10_000 ** (-2 * i / 8), dtype=torch.float64)
            a, b = q[m, 2 * i], q[m, 2 * i + 1]
            expected = torch.stack(
                [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
            )
            torch.testing.assert_close(turned[m, [i, i + 4]], expected, rtol=0, atol=1e-12)


def test_rope_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(2, 16, dtype=torch.float64)
    angles = rotation(torch.arange(40), 16, torch.float64)
    rows = rotate(q.expand(40, 16), angles), rotate(k.expand(40, 16), angles)
    scores = rows[0] @ rows[1].T
    for distance in (0, 3, 11):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 5}, "even multiple"),
        ({"positions": "absolute"}, "positions"),
        ({"pooling": "max"}, "pooling"),
        ({"token_weights": True}, "mean"),
        ({"max_length": 2}, "max_length"),
        ({"dropout": 1.0}, "dropout"),
        ({"positions": "learned", "max_positions": 10}, "max_positions"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocabulary": "other"}, "vocabulary"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**{**SIZES, **settings})


def test_more_tokens_than_learned_positions_are_refused() -> None:
    net = encoder(positions="learned", max_positions=64)
    with pytest.raises(ValueError, match="64"):
        net(torch.ones(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match="head"):
        encoder(rewrites=False)(torch.ones(1, 3, dtype=torch.int64), None, True)


def test_runs_copied_out_alone(tmp_path) -> None:
    import subprocess
    import sys
    from pathlib import Path

    import kexue_roformer_sim.encoder as module

    (tmp_path / "encoder.py").write_text(Path(module.__file__).read_text(encoding="utf-8"))
    code = (
        f"import sys; sys.path.append({str(Path(torch.__file__).parents[1])!r})\n"
        "import torch, encoder\n"
        "c = encoder.EncoderConfig(vocab_size=9, embedding_size=8, hidden_size=8, layers=1,\n"
        "    heads=2, intermediate_size=8)\n"
        "encoder.Encoder(c)(torch.ones(1, 4, dtype=torch.int64)).vector.sum().backward()\n"
        "assert not [m for m in sys.modules if m.startswith('kexue')]\n"
    )
    subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, check=True)
