"""``kexue convert``: a foreign checkpoint to a folder of weights."""

from __future__ import annotations

from pathlib import Path

import click

from kexue_core.commands import _output
from kexue_core.commands._options import json_option

__all__ = ["command"]


@click.command(name="convert")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--to",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of weights to make.",
)
@click.option("--adapter", help="Adapter to use; default: the only one that reads the format.")
@json_option
def command(source: str, to: Path, adapter: str | None, as_json: bool) -> None:
    """Convert a checkpoint of torch or TensorFlow with a plugin's adapter.

    SOURCE is a file, the prefix of a TensorFlow checkpoint, a folder that holds one checkpoint, or
    hf:owner/repo. Only tensors are read, in a process of its own: a file that needs code to run is
    refused. Missing and unexpected keys are named, and nothing is written then.

    \b
    Examples:
      kexue convert model/bert_model.ckpt --to out --adapter roformer-tf
      kexue convert hf:owner/repo --to out
    """
    from kexue_core.hub.conversion import convert

    name, _, distribution = (adapter or "").rpartition("::")[::-1]
    path = Path(source).expanduser()
    if source.startswith("hf:"):
        from kexue_core.hub import locate

        path = locate(source).folder
    done = convert(path, to, adapter=name or None, plugin=distribution or None)
    if as_json:
        _output.json(done)
    else:
        _output.table(("folder", "adapter", "tensors"), [(done.folder, done.adapter, done.tensors)])
