"""Between which bounds the Lipschitz constant of a network lies.

From above: the network is traced into its operations, each has a constant, and they combine as

    f(g(x)): L_f L_g        f(x) + g(x): L_f + L_g        (f(x), g(x)): sqrt(L_f^2 + L_g^2)

so that a residual block x + f(x) has 1 + L_f: not 1, and finite [1]. Linear layers count with the
norm of the operator that they are on their real input (:mod:`kexue_sngan.operators`).

From below: the constant is at least the norm of the Jacobian at any point, and at least the slope
between any two.

References:
    [1] Su Jianlin, https://kexue.fm/archives/6051
    [2] Gouk et al., Regularisation of neural networks by enforcing Lipschitz continuity, 2021,
        arXiv 1804.04368 (the constants of batch norm, pooling and residual blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from kexue_sngan.constants import Constants

__all__ = ["LipschitzBound", "jacobian_norms", "lipschitz_bound"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LipschitzBound:
    """lower <= the Lipschitz constant (Euclidean norms, sample by sample) <= upper.

    Attributes:
        lower: The largest slope that was seen on the data.
        upper: Product over layers, sum over branches.
        layers: Constant of each operation that has another than 1, in the order of the graph.
    """

    lower: float
    upper: float
    layers: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.lower:.4g} <= L <= {self.upper:.4g}"


def lipschitz_bound(
    model: nn.Module,
    x: Tensor,
    *,
    constants: Mapping[type[nn.Module], float] | None = None,
    rounds: int = 10,
) -> LipschitzBound:
    """Bound the Lipschitz constant of a model from both sides, in evaluation mode.

    >>> print(lipschitz_bound(critic, images))                              # doctest: +SKIP
    3.2 <= L <= 87

    Args:
        model: Any module of one input that :func:`torch.fx.symbolic_trace` can follow: no control
            flow that depends on values.
        x: Data, (n, ...), which also says the sizes of everything.
        constants: Lipschitz constants of modules of your own, by class, taken as they are.
        rounds: Rounds of power iteration on the Jacobian of a model of several outputs.

    Returns:
        Both bounds. The upper is as good as the norms of its layers: a few parts in a million.

    Raises:
        ValueError: The model cannot be traced, or has an operation without a known finite constant
            (dot-product attention has none at all); the message names it.
    """
    given = dict(constants or {})
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        upper, layers = _upper(model, x[:1].detach(), given)
        lower = max(float(jacobian_norms(model, x, rounds=rounds).max()), _slopes(model, x))
    finally:
        for module, mode in training.items():
            module.training = mode
    return LipschitzBound(lower=lower, upper=upper, layers=layers)


def jacobian_norms(model: nn.Module, x: Tensor, *, rounds: int = 10) -> Tensor:
    """Spectral norm of the Jacobian of ``model`` at each sample, (n,), never too large.

    One backward pass where the model has a single output, |dD/dx|; else power iteration from a
    random start, J v by differentiating J^T w in w.

    Args:
        model: Maps samples one by one: (n, ...) to (n, ...). In evaluation mode.
        x: (n, ...).
        rounds: Rounds of power iteration.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = model(x)
        y = y.reshape(len(y), -1)
        if y.shape[1] == 1:
            (slope,) = torch.autograd.grad(y.sum(), x)
            norms: Tensor = slope.flatten(1).norm(dim=1)
            return norms
        w = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, x, w, create_graph=True)
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(x.shape, generator=generator).to(x)
        best = x.new_zeros(len(x))
        for _ in range(rounds):
            v = v / v.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, *[1] * (x.ndim - 1))
            (u,) = torch.autograd.grad(pulled, w, v, retain_graph=True)
            best = torch.maximum(best, u.flatten(1).norm(dim=1))
            (v,) = torch.autograd.grad(y, x, u, retain_graph=True)
    return best.detach()


@torch.no_grad()
def _slopes(model: nn.Module, x: Tensor) -> float:
    """Largest |f(a) - f(b)| / |a - b| over pairs of samples."""
    outputs, inputs = (v.reshape(len(x), -1).double() for v in (model(x), x))
    apart = torch.pdist(inputs)
    slopes = torch.pdist(outputs)[apart > 0] / apart[apart > 0]
    return float(slopes.max()) if len(slopes) else 0.0


def _upper(
    model: nn.Module, x: Tensor, given: Mapping[type[nn.Module], float]
) -> tuple[float, dict[str, float]]:
    """The constant of the whole graph, and those of its operations that are not 1."""
    tracer = _Tracer(given)
    if tracer.is_leaf_module(model, ""):  # a single layer: its root is not to be looked into
        model = nn.Sequential(model)
    try:
        traced = fx.GraphModule(model, tracer.trace(model))
    except Exception as error:  # whatever a model's forward does with what is no tensor
        raise ValueError(
            f"{type(model).__name__} cannot be traced: {error}. Bound its parts one by one"
        ) from error
    shapes = _Shapes(traced)
    with torch.no_grad():
        shapes.run(x)
    rules = Constants(traced, shapes.values, given)
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    bounds: dict[fx.Node, float] = dict.fromkeys(inputs[:1], 1.0)
    layers: dict[str, float] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            [result] = node.args
            if not isinstance(result, fx.Node):
                raise ValueError(f"{type(model).__name__} returns {type(result).__name__}s")
            return bounds.get(result, 0.0), layers
        used = [bounds[n] for n in node.all_input_nodes if n in bounds]
        if node.op in ("placeholder", "get_attr") or not used or not rules.is_tensor(node):
            continue  # it does not depend on the input
        bounds[node], factor = rules.combine(node, bounds)
        if factor != 1:
            layers[str(node.target) if node.op == "call_module" else node.name] = factor
    raise ValueError(f"{type(model).__name__} returns nothing")


class _Tracer(fx.Tracer):
    """Does not look into modules whose constant is given."""

    def __init__(self, given: Mapping[type[nn.Module], float]) -> None:
        super().__init__()
        self._given = tuple(given)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf: bool = super().is_leaf_module(m, module_qualified_name)
        return leaf or isinstance(m, self._given)


class _Shapes(fx.Interpreter):
    """Runs the graph once and keeps every value."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[fx.Node, object] = {}

    def run_node(self, n: fx.Node) -> object:
        self.values[n] = super().run_node(n)
        return self.values[n]
