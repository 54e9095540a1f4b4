from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kexue_core.configs import build_config, parse_settings
from kexue_core.errors import ConfigError
from kexue_core.training import RecipeConfig


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


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("steps", "8", "a whole number"),
        ("steps", 8.5, "a whole number"),
        ("steps", True, "a whole number"),
        ("rate", "fast", "a number"),
        ("flip", 1, "true or false"),
        ("name", 3, "text"),
        ("mode", "medium", "one of fast, slow"),
        ("clip", "high", "a number or None"),
        ("widths", 3, "a list"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"Config: {key} must be {wanted}, not {value!r}"):
        build_config(Config, {key: value})


def test_values_of_the_type_are_taken_as_they_are() -> None:
    values = {"rate": 1, "clip": None, "widths": [3], "betas": [0.5, 0.9], "mode": "slow"}
    assert build_config(Config, values) == Config(
        rate=1, clip=None, widths=(3,), betas=(0.5, 0.9), mode="slow"
    )


def test_annotations_that_only_type_checkers_can_read_are_not_judged() -> None:
    @dataclass(frozen=True)
    class Odd:
        width: Elsewhere = 3  # type: ignore[name-defined]  # noqa: F821

    assert build_config(Odd, {"width": "4"}).width == "4"


@dataclass(frozen=True, kw_only=True)
class Settings(RecipeConfig):
    size: int = 8
    step_size: float = 0.5
    net_learning_rate: float = 1e-3
    warmup: int = 10
    weight_decay: float = 0.0
    shift: float = 0.0
    flip: bool = False


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("steps", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("ema", 1.0, r"in \[0, 1\)"),
        ("ema", -0.1, r"in \[0, 1\)"),
        ("evaluate_every", -1, "at least 0"),
        ("size", 0, "positive"),
        ("batch_size", 2**31, "below 2\\^31"),
        ("size", 10**21, "below 2\\^31"),
        ("step_size", 0.0, "positive"),
        ("net_learning_rate", -1e-3, "positive"),
        ("net_learning_rate", float("nan"), "positive"),
        ("warmup", -5, "at least 0"),
        ("weight_decay", float("inf"), "at least 0"),
    ],
)
def test_settings_of_a_recipe_are_in_range(key: str, value: float, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"Settings: {key} must be {wanted}, not {value!r}"):
        build_config(Settings, {key: value})


def test_settings_at_the_ends_of_their_range_are_good() -> None:
    Settings(steps=1, batch_size=1, ema=0.0, evaluate_every=0, warmup=0, shift=-1.0, step_size=0.1)
