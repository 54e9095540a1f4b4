from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexue_core.configs import build_config, parse_settings
from kexue_core.errors import ConfigError


@dataclass(frozen=True)
class Config:
    steps: int = 10
    rate: float = 0.1
    flip: bool = False
    name: str = "x"
    mode: Literal["fast", "slow"] = "fast"
    clip: float | None = None
    widths: tuple[int, ...] = (1, 2)
    betas: tuple[float, float] = (0.9, 0.99)
    tags: Sequence[str] = ()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("steps=10_000", 10_000),
        ("rate=1e-4", 1e-4),
        ("rate=3", 3.0),
        ("flip=true", True),
        ("flip=No", False),
        ("name=a=b", "a=b"),
        ("name=", ""),
        ("mode=slow", "slow"),
        ("clip=0.5", 0.5),
        ("clip=none", None),
        ("widths=64,128", (64, 128)),
        ("widths=(64,)", (64,)),
        ("widths=", ()),
        ("betas=0.8,0.9", (0.8, 0.9)),
        ("tags=a,b", ("a", "b")),
    ],
)
def test_values_read_as_the_type_of_their_field(setting: str, value: Any) -> None:
    [read] = parse_settings(Config, [setting]).values()
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps=1.5", "steps=1.5 is no whole number. Write --set steps=1000"),
        ("rate=fast", "rate=fast is no number. Write --set rate=1e-4"),
        ("flip=maybe", "flip=maybe is no true or false. Write --set flip=true"),
        ("mode=medium", "mode=medium is no one of fast, slow"),
        ("betas=0.9", "betas=0.9 is no"),
        ("betas=0.9,x", "betas=0.9,x is no"),
        ("stpes=3", "Config has no stpes. Did you mean steps? It takes betas, clip, flip, mode, "),
        ("steps", "'steps' is no setting. Write --set key=value"),
        ("=3", "'=3' is no setting"),
    ],
)
def test_what_does_not_read_is_said_with_the_remedy(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(Config, [setting])
    assert said in str(caught.value)


@given(
    st.builds(
        Config,
        steps=st.integers(),
        rate=st.floats(allow_nan=False),
        flip=st.booleans(),
        name=st.text(st.characters(categories=["L", "N"])),
        mode=st.sampled_from(["fast", "slow"]),
        clip=st.none() | st.floats(allow_nan=False),
        widths=st.lists(st.integers()).map(tuple),
    )
)
def test_a_config_comes_back_from_its_settings(config: Config) -> None:
    def write(value: Any) -> str:
        return ",".join(map(repr, value)) if isinstance(value, tuple) else str(value)

    settings = [f"{f.name}={write(getattr(config, f.name))}" for f in fields(config)]
    assert build_config(Config, parse_settings(Config, settings)) == config
