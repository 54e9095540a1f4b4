"""Write docs/reference.md and docs/conformance.md from the docstrings.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

DOCS = Path(__file__).parent
_CORE = "kexue_core."

#: What authors and users write against, in the order of the page.
MODULES = (
    "kexue_core",
    "kexue_core.specs",
    "kexue_core.hookspecs",
    "kexue_core.interfaces",
    "kexue_core.training",
    "kexue_core.training.data",
    "kexue_core.experiments",
    "kexue_core.metrics",
    "kexue_core.testing",
    "kexue_core.testing.loopback_hub",
    "kexue_core.errors",
)

REFERENCE = """# Reference

Written from the docstrings by `docs/make_reference.py`. Shapes are in parentheses, (n, d); data are
in [0, 1] and probabilities in nats unless it says otherwise.
"""

CONFORMANCE = """# What the conformance kit checks

`kexue check DIST`, and in a test file of the plugin:

```python
from kexue_core.testing import conformance_tests

test_conformance = conformance_tests("kexue-toy")
```

or without any file, `pytest --kexue kexue-toy`. Where kexue is installed pytest has this option,
and the fixture `loopback_hub`: an empty Hub of one's own, a
`kexue_core.testing.loopback_hub.LoopbackHub`.

Every spec is looked at, with the model's `tiny` config, its parameters moved a little from their
start (layers that start at zero would hide mistakes). A check that fails says what to change. What
is "recorded" is a fact and no fault: whether `torch.compile` captures the model, how long listing
takes.
`kexue check DIST --list` prints the checks of one plugin, `--only 'model:toy-*'` chooses.

A density that claims to be exact is held against one of two measurements, so that nothing the model
says of itself is trusted: where the latent has as many numbers as the datum, against the change of
variables with the Jacobian measured by central differences in float64; else, where a datum has one
to three numbers, against its integral over a grid. `ModelSpec(bound=True)` declares a lower bound,
which must integrate to at most one.

A loss is differentiated with respect to the tensors of its `example` that require a gradient, else
to its first floating tensor. A sampler with `targets_density=True` is run on a Gaussian in the
plane with the options in `SamplerSpec.tiny`.

A mask is true where an element counts. It has the shape of what `reduction="none"` returns (tokens
(n, t) of logits (n, t, c)), else that of one of the example's tensors; where neither fits, the
example returns a mask as well, all true, at the place of the argument `mask`.

A parameter whose gradient is 0 from every start is idle: declare it with `requires_grad_(False)` or
as a buffer. `forward` draws random numbers in eval mode only where the model has a latent.

An extractor must find something in the example texts, or no offset is looked at: choose thresholds
in `tiny` at which random weights do, or let `example_input` return texts.
"""

KINDS = {
    "Every plugin": ("plugin_checks", "PLUGIN_CHECKS"),
    "Every model": ("model_checks", "MODEL_CHECKS"),
    "By capability": ("capability_checks", "CAPABILITY_CHECKS"),
    "Densities": ("density_checks", "DENSITY_CHECKS"),
    "Models of text": ("text_checks", "TEXT_CHECKS"),
    "Saving and loading": ("fresh", "FRESH_CHECKS"),
    "Recorded": ("graph_checks", "GRAPH_CHECKS"),
    "Losses": ("loss_checks", "LOSS_CHECKS"),
    "Samplers": ("sampler_checks", "SAMPLER_CHECKS"),
    "Recipes": ("plugin_checks", "RECIPE_CHECKS"),
    "Adapters": ("plugin_checks", "ADAPTER_CHECKS"),
}


def main() -> None:
    """Write both pages."""
    for name, text in (("reference.md", reference()), ("conformance.md", conformance())):
        (DOCS / name).write_text(text, encoding="utf-8")
        print(DOCS.name + "/" + name)


def reference() -> str:
    """The text of reference.md."""
    parts = [REFERENCE]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"## `{name}`\n\n{_first_paragraph(module)}\n")
        parts += [_entry(module, public) for public in public_names(module)]
    return "\n".join(parts)


def conformance() -> str:
    """The text of conformance.md."""
    parts = [CONFORMANCE]
    for heading, (module_name, table) in KINDS.items():
        checks = getattr(importlib.import_module(f"kexue_core.testing.{module_name}"), table)
        rows = [f"| `{check.name}` | {_plain(check.promise)} |" for check in checks]
        parts.append("\n".join([f"## {heading}\n", "| check | promise |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


def public_names(module: ModuleType) -> list[str]:
    """What a module exports, without what another module of the page shows in full."""
    names = [name for name in getattr(module, "__all__", ()) if name != "__version__"]
    if module.__name__ != "kexue_core":
        return names
    return [n for n in names if getattr(module, n).__module__ not in MODULES[1:]]


def _entry(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        lines = [f"### `{name}`\n", f"```python\n{_signature(name, value)}\n```\n", _text(value)]
        if inspect.isclass(value):
            for method, function in _methods(value):
                lines.append(f"\n- **`{_signature(method, function)}`** {_indented(function)}")
        return "\n".join(lines) + "\n"
    return f"### `{name}`\n\n{constant_comment(module, name)}\n"


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class defines itself."""
    for name, value in vars(cls).items():
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value
    if "__call__" in vars(cls):
        yield "__call__", vars(cls)["__call__"]


def _signature(name: str, value: Any) -> str:
    if isinstance(value, property):
        return name
    kind = "class " if inspect.isclass(value) else ""
    if inspect.isclass(value) and getattr(value, "_is_protocol", False):
        return f"class {name}(Protocol)"
    try:
        signature = str(inspect.signature(value))
    except (TypeError, ValueError):
        signature = ""
    # Annotations are strings already; defaults that are objects would print an address.
    plain = re.sub(r"<factory>|<(?:[^<>]|<lambda>)* at 0x[0-9a-f]+>", "...", signature)
    return kind + name + plain.replace("'", "")


def _text(value: Any) -> str:
    return _plain(inspect.getdoc(value) or "")


def _indented(value: Any) -> str:
    return _text(value).replace("\n", "\n  ")


def _first_paragraph(module: ModuleType) -> str:
    return _plain((inspect.getdoc(module) or "").partition("\n\n")[0])


def _plain(text: str) -> str:
    """Sphinx roles and double backquotes as Markdown has them."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def constant_comment(module: ModuleType, name: str) -> str:
    """The comment above the assignment of a constant, here or where it is imported from."""
    value = getattr(module, name)
    for each in (module, *(m for n, m in sorted(sys.modules.items()) if n.startswith(_CORE))):
        if getattr(each, name, None) is value and (found := _comment(each, name)):
            return found
    return ""


def _comment(module: ModuleType, name: str) -> str:
    source = inspect.getsource(module).splitlines()
    for number, line in enumerate(source):
        if re.match(rf"{name}\b\s*(:[^=]+)?=", line):
            # One comment may stand above several assignments in a row.
            before = itertools.dropwhile(
                lambda text: text and text[0] != "#", source[:number][::-1]
            )
            above = list(itertools.takewhile(lambda text: text[:1] == "#", before))
            return " ".join(text.lstrip("#: ") for text in above[::-1])
    return ""


if __name__ == "__main__":
    main()
