"""``kexue scatter NAME``: samples of points in the plane, drawn with characters."""

from __future__ import annotations

import click

__all__ = ["command"]

WIDTH, HEIGHT = 60, 24
SHADES = " .:*#@"


@click.command("scatter")
@click.argument("name")
@click.option("-n", "count", default=2000, show_default=True, help="Points to draw.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
def command(name: str, count: int, seed: int) -> None:
    """Draw samples of two-dimensional weights in the terminal.

    \b
    Examples:
      kexue scatter moons-flow
      kexue scatter file:runs/flow-matching-moons/weights -n 5000
    """
    import kexue_core as kexue

    points = kexue.sample(kexue.load(name), count, seed=seed)
    if points.ndim != 2 or points.shape[1] != 2:
        raise click.UsageError(f"{name} gives {tuple(points.shape[1:])}, not points in the plane")
    counts = [[0] * WIDTH for _ in range(HEIGHT)]
    for x, y in points.tolist():
        column, row = min(int(x * WIDTH), WIDTH - 1), min(int((1 - y) * HEIGHT), HEIGHT - 1)
        counts[row][column] += 1
    densest = max(map(max, counts)) or 1
    for line in counts:
        shades = (SHADES[-(-c * (len(SHADES) - 1) // densest)] for c in line)
        click.echo("".join(shades).rstrip())
