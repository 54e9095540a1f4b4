"""Lipschitz constants of the operations that networks are made of.

Derivatives of activations are bounded by their largest slope, found once to five digits and
rounded up. Everything linear (convolution, pooling by means, upsampling) is measured as the
operator it is at its input's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kexue_sngan.operators import largest_singular_value

__all__ = ["Constants"]

#: Largest |slope| of activations without parameters.
SLOPES: Mapping[str, float] = {
    "relu": 1.0,
    "relu6": 1.0,
    "tanh": 1.0,
    "hardtanh": 1.0,
    "softplus": 1.0,
    "softsign": 1.0,
    "logsigmoid": 1.0,
    "identity": 1.0,
    "sigmoid": 0.25,
    "gelu": 1.13,
    "silu": 1.1,
    "mish": 1.0885,
    "hardswish": 1.5,
    "selu": 1.7581,
    "softmax": 0.5,
}

#: What moves numbers about, or hides some of them.
MOVES = frozenset(
    [
        "clone",
        "contiguous",
        "chunk",
        "detach",
        "dropout",
        "dropout1d",
        "dropout2d",
        "flatten",
        "flip",
        "float",
        "double",
        "getitem",
        "movedim",
        "narrow",
        "pad",
        "permute",
        "pixelshuffle",
        "pixel_shuffle",
        "pixelunshuffle",
        "reshape",
        "roll",
        "select",
        "split",
        "squeeze",
        "t",
        "to",
        "transpose",
        "unbind",
        "unflatten",
        "unsqueeze",
        "view",
        "zeropad2d",
        "constantpad2d",
    ]
)

LINEAR_MODULES = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Upsample,
    nn.ReflectionPad2d,
    nn.ReplicationPad2d,
    nn.CircularPad2d,
)
LINEAR_FUNCTIONS = frozenset(
    [
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "interpolate",
    ]
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Constants:
    """The constant of each node of a traced graph.

    Args:
        graph: The traced module.
        values: What each node gave on one sample.
        given: Constants of modules by class.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        values: Mapping[fx.Node, object],
        given: Mapping[type[nn.Module], float],
    ) -> None:
        self._modules = dict(graph.named_modules())
        self._values = values
        self._given = given

    def is_tensor(self, node: fx.Node) -> bool:
        """Whether the node's value is a tensor, or several, and not a size or a type."""
        value = self._values[node]
        parts = value if isinstance(value, tuple | list) else (value,)
        return bool(parts) and all(isinstance(p, Tensor) for p in parts)

    def combine(self, node: fx.Node, bounds: Mapping[fx.Node, float]) -> tuple[float, float]:
        """(constant of the node as a function of the input, constant of its operation alone).

        Raises:
            ValueError: The operation has no known finite constant.
        """
        if node.op == "call_module":
            factor = self._module(self._modules[str(node.target)], node)
            return bounds[node.all_input_nodes[0]] * factor, factor
        name = _name(node.target)
        used = [bounds[n] for n in node.all_input_nodes if n in bounds]
        if name in ("add", "iadd", "sub", "isub"):
            weights = [1.0, float(node.kwargs.get("alpha", 1) or 0)]  # type: ignore[arg-type]
            pairs = zip(node.args, weights, strict=False)
            total = 0.0
            for branch, weight in pairs:
                if isinstance(branch, fx.Node) and branch in bounds:
                    total += abs(weight) * bounds[branch]
            return total, 1.0
        if name in ("cat", "concat", "stack"):
            parts: Any = node.args[0]  # one may be there twice
            return math.hypot(*(bounds[p] for p in parts if p in bounds)), 1.0
        if name in ("mul", "imul", "truediv", "itruediv", "div") and len(used) == 1:
            factor = self._scale(node, bounds, divide="div" in name)
            return used[0] * factor, factor
        if len(used) != 1:
            raise self._unknown(node, name)
        factor = self._function(name, node)
        return used[0] * factor, factor

    def _module(self, module: nn.Module, node: fx.Node) -> float:
        for kind, constant in self._given.items():
            if isinstance(module, kind):
                return constant
        if isinstance(module, LINEAR_MODULES):
            return self._operator(module, node)
        if isinstance(module, NORMS):
            return _batch_norm(module)
        if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
            return _max_pool(module.kernel_size, module.stride, module.dilation, self._sides(node))
        if isinstance(module, nn.LeakyReLU):
            return max(1.0, abs(module.negative_slope))
        if isinstance(module, nn.ELU | nn.CELU):
            return max(1.0, abs(module.alpha)) if isinstance(module, nn.ELU) else 1.0
        if isinstance(module, nn.PReLU):
            return max(1.0, float(module.weight.detach().abs().max()))
        if isinstance(module, nn.Softplus):
            return 1.0
        name = type(module).__name__.lower()
        if name in MOVES:
            return 1.0
        if name in SLOPES:
            return SLOPES[name]
        raise self._unknown(node, type(module).__name__)

    def _function(self, name: str, node: fx.Node) -> float:
        if name in MOVES and node.kwargs.get("mode", "constant") == "constant":
            return 1.0
        if name in SLOPES:
            return SLOPES[name]
        if name in ("neg", "abs") or (name == "getattr" and node.args[1] in ("T", "mT")):
            return 1.0
        if name in ("max_pool1d", "max_pool2d", "max_pool3d"):
            keys = ("kernel_size", "stride", "padding", "dilation")
            found = {"stride": None, "dilation": 1, **node.kwargs}
            found.update(zip(keys, node.args[1:], strict=False))
            size, stride, dilation = (found[k] for k in ("kernel_size", "stride", "dilation"))
            return _max_pool(size, stride, dilation, self._sides(node))
        if name in ("leaky_relu", "elu"):
            # Their slopes are 1 and, on the other side, this.
            slope: Any = node.kwargs.get("negative_slope", node.kwargs.get("alpha", 1.0))
            slope = node.args[1] if len(node.args) > 1 else slope
            return max(1.0, abs(float(slope)))
        if name in ("sum", "mean"):
            # A sum of k numbers has the norm sqrt(k) as a map.
            k = math.prod(self._shape(node.all_input_nodes[0])) / math.prod(self._shape(node))
            return math.sqrt(k) if name == "sum" else 1 / math.sqrt(k)
        if name in LINEAR_FUNCTIONS:
            function: Any = node.target
            rest, options = node.args[1:], dict(node.kwargs)
            return self._operator(lambda x: function(x, *rest, **options), node)
        raise self._unknown(node, name)

    def _operator(self, apply: Callable[[Tensor], Tensor], node: fx.Node) -> float:
        """Norm of a linear operation at its input's size, rounded up by what is not known of it."""
        value = self._values[node.all_input_nodes[0]]
        assert isinstance(value, Tensor)
        if isinstance(apply, nn.Linear):
            return float(torch.linalg.matrix_norm(apply.weight.detach().double(), 2))
        return largest_singular_value(apply, tuple(value.shape[1:]), like=value)[1]

    def _scale(self, node: fx.Node, bounds: Mapping[fx.Node, float], *, divide: bool) -> float:
        """The largest factor of a product with a number, or with a tensor that is constant."""
        left, right = node.args
        other = right if left in bounds else left
        if other in bounds or (divide and other is left):
            raise self._unknown(node, "a product or quotient of what depends on the input")
        value = self._values[other] if isinstance(other, fx.Node) else other
        factor: Tensor = torch.as_tensor(value).detach().double().abs()
        return float((1 / factor if divide else factor).max())

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        value = self._values[node]
        assert isinstance(value, Tensor)
        return tuple(value.shape)

    def _sides(self, node: fx.Node) -> int:
        return len(self._shape(node)) - 2

    def _unknown(self, node: fx.Node, name: str) -> ValueError:
        return ValueError(
            f"{name} (at {node.name}) has no Lipschitz constant that is known here; "
            "give that of the module around it: constants={TheModule: 1.0}"
        )


def _batch_norm(module: nn.Module) -> float:
    """In evaluation batch norm multiplies every channel by gamma / sqrt(var + eps) [Gouk 2021]."""
    variance = module.running_var
    if not isinstance(variance, Tensor):
        raise ValueError("batch norm without running statistics depends on the batch")
    scale = (variance.detach().double() + float(module.eps)).rsqrt()  # type: ignore[arg-type]
    if isinstance(module.weight, Tensor):
        scale = scale * module.weight.detach().double().abs()
    return float(scale.max())


def _max_pool(kernel: Any, stride: Any, dilation: Any, sides: int) -> float:
    """A maximum is 1-Lipschitz; each number is in at most ceil(k/s) windows a side."""

    def each(value: Any) -> tuple[int, ...]:
        return (value,) * sides if isinstance(value, int) else tuple(value)

    windows = (
        # Dilated windows interleave: any of the kernel's k places can fall on a number.
        math.ceil(k / s) if d == 1 else k
        for k, s, d in zip(each(kernel), each(stride or kernel), each(dilation), strict=True)
    )
    return math.sqrt(math.prod(windows))


def _name(target: Any) -> str:
    """Its bare name: ``torch.relu``, ``F.relu``, ``x.relu()`` and ``x.relu_()`` are one."""
    name: str = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return name.strip("_")
