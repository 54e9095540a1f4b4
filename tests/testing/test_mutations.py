"""Every check of the kit fails on a fault of its kind, and says what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kit_specs import GOOD, subject

from kexue_core.specs import Option
from kexue_core.testing import subject_cases
from kexue_core.testing.capability_checks import CAPABILITY_CHECKS
from kexue_core.testing.density_checks import DENSITY_CHECKS
from kexue_core.testing.loss_checks import LOSS_CHECKS
from kexue_core.testing.model_checks import MODEL_CHECKS
from kexue_core.testing.sampler_checks import SAMPLER_CHECKS
from kexue_core.testing.text_checks import TEXT_CHECKS

# Good spec, what is wrong with it, the check that must fail, and a piece of what it says.
Fault = tuple[str, dict[str, object], str, str]


def _factory(name: str) -> dict[str, object]:
    return {"factory": f"faulty_zoo:{name}"}


def _config(name: str) -> dict[str, object]:
    return {"config": f"faulty_zoo:{name}"}


FAULTS: list[Fault] = [
    ("flow", _factory("function_factory"), "plain-module", "Name the class itself"),
    ("flow", _factory("NeedsMore"), "plain-module", "vocabulary"),
    ("flow", _config("ThawedConfig"), "config", "frozen=True"),
    ("flow", {**_config("LosesKeyConfig"), "tiny": {"hidden": 5}}, "config", "hidden=5"),
    ("flow", _config("SetConfig"), "config", "JSON"),
    ("flow", _config("UncomparedConfig"), "config", "table differs after JSON"),
    ("flow", _factory("ForgetsConfig"), "config", "self.config = config"),
    ("flow", {**_config("AnyKeyConfig"), "tiny": {}}, "unknown-keys", "no_such_setting"),
    ("flow", _factory("Slow"), "tiny", "Make ModelSpec.tiny smaller"),
    ("flow", _factory("DeadParameter"), "gradients", "unused gets no gradient"),
    ("flow", _factory("TimesZero"), "gradients", "0 * p.sum() does not"),
    ("flow", _factory("NoGradient"), "gradients", "no_grad"),
    ("flow", _factory("InfiniteGradient"), "gradients", "gate is not finite"),
    ("flow", _factory("UnseededStart"), "seeds", "nets.0.0.bias"),
    ("flow", _factory("RandomEncoder"), "seeds", "to_latent draws from torch's global"),
    ("mixture", _factory("DropsInEval"), "seeds", "training=self.training"),
    ("mixture", _factory("DropsAttention"), "seeds", "scaled_dot_product_attention"),
    ("mixture", _factory("OwnDropout"), "seeds", "forward draws from torch's global"),
    ("flow", _factory("BatchStatistics"), "batch-independence", "to_latent of samples 0..0"),
    ("flow", _factory("BatchDependentStream"), "batch-independence", "bits_per_dim"),
    ("flow", _factory("SqueezesOne"), "batch-0-and-1", "no batch dimension for a batch of 1"),
    ("flow", _factory("FailsOnNone"), "batch-0-and-1", "to_latent fails with a batch of 0"),
    ("flow", _factory("Views"), "memory-layout", "reshape"),
    ("flow", _factory("HardFloat32"), "float64", "float32"),
    ("flow", _factory("NeedsFloat32"), "float64", "x.new_zeros"),
    ("flow", _factory("OtherShapeInFloat64"), "float64", "gives shapes [(2, 2)]"),
    ("flow", _factory("NanInFloat64"), "float64", "gives nan"),
    ("flow", _factory("ConstantInBfloat16"), "bfloat16", "from float32 with the same weights"),
    ("flow", _factory("OverflowsBfloat16"), "bfloat16", "not finite"),
    ("flow", _factory("LacksMethod"), "methods", "declares 'latent' and has no prior"),
    ("flow", _factory("BatchedPrior"), "prior", "one sample after the other"),
    ("flow", _factory("GlobalPrior"), "prior", "generator"),
    ("flow", _factory("ConstantPrior"), "prior", "two seeds"),
    ("flow", _factory("ColdPrior"), "temperature", "1.00 times"),
    ("flow", _factory("Unclamped"), "decode-range", "clamp(0, 1)"),
    ("flow", _factory("WrongLatentShape"), "latent-shapes", "where prior gives"),
    ("flow", _factory("WrongSign"), "density", "wrong sign"),
    ("flow", _factory("ForgetsLogDet"), "density", "every layer's log-determinant"),
    ("flow", _factory("WrongConstant"), "density", "off by 0.01 nats"),
    ("flow", _factory("ClaimsOtherLogDet"), "density", "transform(x) gives another"),
    ("flow", _factory("Uncheckable"), "density", "1 to 3 numbers"),
    ("flow", _factory("InverseOff"), "inverse", "Undo every layer"),
    ("mixture", _factory("Unnormalised"), "density", "integrates to 2"),
    ("mixture", _factory("TwoLogarithm"), "density", "natural logarithm"),
    ("bound", _factory("TooHighBound"), "density", "more than 1"),
    ("mixture", _factory("LogOfZero"), "log-prob", "log(0)"),
    ("mixture", _factory("ConstantDensity"), "log-prob", "the same for different data"),
    ("mixture", _factory("MeanLogProb"), "log-prob", "(4, 1)"),
    ("mixture", _factory("BitsAreNats"), "bits", "wrong sign"),
    ("flow", _factory("BitsInNats"), "bits", "in nats"),
    ("flow", _factory("TotalBits"), "bits", "Divide by the 4 numbers"),
    ("mixture", _factory("BitsDrift"), "bits", "same constant"),
    ("energy", _factory("InfiniteEnergyGradient"), "energy-gradient", "not finite"),
    ("energy", _factory("FlatEnergy"), "energy-gradient", "zero everywhere"),
    ("energy", _factory("StraightThroughEnergy"), "energy-gradient", "difference quotient"),
    ("energy", _factory("TotalEnergy"), "energy-gradient", "has shape ()"),
    ("codec", _factory("FloatCodes"), "codes", "Return integers"),
    ("codec", _factory("RawRows"), "codes", "not its raw rows"),
    ("codec", _factory("OutOfRangeCodes"), "codes", "in [0, 1]"),
    ("texts", _factory("UnrankedLabels"), "labels", "best first"),
    ("texts", _factory("LogitLabels"), "labels", "in [0, 1]"),
    ("texts", _factory("PaddingLeaks"), "embedding", "Mask padding"),
    ("texts", _factory("SortsTexts"), "embedding", "restore the order"),
    ("texts", _factory("EmbedsFloat64"), "embedding", "float32 numpy"),
    ("texts", _factory("EmptyTextFails"), "embedding", "an empty one"),
    ("texts", _factory("NoTextsFail"), "embedding", "(0, 8)"),
    ("texts", _factory("EmbedsAnew"), "embedding", "two results"),
    ("texts", _factory("UnseededRewrites"), "rewrites-again", "made of the seed"),
    ("texts", _factory("UnseedableRewrites"), "rewrites-again", "or take a seed"),
    ("texts", _factory("RewritesOnce"), "rewrites-again", "no state between calls"),
    ("texts", _factory("RepeatsRewrites"), "rewrites", "one text twice"),
    ("texts", _factory("TooManyRewrites"), "rewrites", "at most n"),
    ("texts", _factory("ByteOffsets"), "offsets", "not tokens, bytes"),
    ("texts", _factory("NoOffsets"), "offsets", "carry no offsets"),
    ("texts", _factory("HalfOffsets"), "offsets", "give its 'start' and 'end'"),
    ("texts", _factory("FindsNothing"), "offsets", "lower its thresholds"),
    ("texts", _factory("ExtractsAnew"), "facts", "Be deterministic"),
    ("texts", _factory("CountsTexts"), "facts", "how many texts"),
    ("texts", _factory("ExtractsSorted"), "facts", "Restore the order"),
    ("coins", _factory("FloatGrids"), "code-prior", "Return torch.long of shape"),
    ("coins", _factory("BatchedCodes"), "code-prior", "before those of the next"),
    ("coins", _factory("OneGrid"), "code-prior", "two seeds"),
    ("coins", _factory("DensityOfCodes"), "code-prior", "at most 0"),
    ("margin", _factory("NoGradientLoss"), "example", "carries no gradient"),
    ("margin", {"example": "faulty_zoo:list_example"}, "example", "tuple of positional"),
    ("margin", {"example": "faulty_zoo:unseeded_example"}, "seeds", "generator argument"),
    ("margin", _factory("Stateful"), "seeds", "two values"),
    ("margin", _factory("Overflows"), "extremes", "logsumexp"),
    ("margin", _factory("OverflowsHalf"), "half-precision", "float16 is inf"),
    ("margin", _factory("WrongGradient"), "gradcheck", "backward"),
    ("margin", _factory("MeanIsSum"), "reductions", "Reduce what 'none' returns"),
    ("margin", _factory("AnyReduction"), "reductions", "ValueError"),
    ("margin", _factory("MaskCounts"), "masks", "changes the loss"),
    ("margin", _factory("EmptyMaskDivides"), "masks", "NaN"),
    ("margin", _factory("MeanOfAll"), "masked-mean", "not by numel()"),
    ("margin", _factory("SumOfHidden"), "masked-mean", "reduction='sum'"),
    ("tokens", _factory("MeanOfAllTokens"), "masked-mean", "not by the number of all"),
    ("tokens", {"example": "faulty_zoo:hiding_example"}, "masks", "true everywhere"),
    ("tokens", _factory("OtherMask"), "masks", "let the example return one"),
    ("metropolis", _factory("other_default"), "signature", "61"),
    (
        "metropolis",
        {"options": {"heat": Option(default=1, help="heat")}},
        "signature",
        "'heat' is none of the function's",
    ),
    ("metropolis", _factory("drops_one"), "shape-and-range", "n=0"),
    ("metropolis", _factory("keeps_graph"), "shape-and-range", "Detach"),
    (
        "metropolis",
        {**_factory("out_of_range"), "targets_density": False},
        "shape-and-range",
        "Samples lie in",
    ),
    ("metropolis", _factory("batch_stream"), "seeds", "The first two of 3"),
    ("metropolis", _factory("global_noise"), "seeds", "global generator"),
    ("metropolis", _factory("one_result"), "seeds", "Two seeds"),
    (
        "metropolis",
        {
            **_factory("batched"),
            "options": {**GOOD["metropolis"].options, "batch_size": Option(default=8, help="b")},  # type: ignore[attr-defined]
        },
        "seeds",
        "batch_size changes",
    ),
    ("metropolis", _factory("changes_model"), "model-untouched", "changes the model"),
    ("metropolis", _factory("too_cold"), "moments", "0.70 times"),
    ("metropolis", _factory("wrong_mean"), "moments", "mean is off"),
]


@pytest.mark.parametrize("name", GOOD)
def test_correct_ones_pass_every_check(name: str) -> None:
    # save-load needs an installed distribution: tests/testing/test_fresh.py.
    left_out = {"save-load", "compile", "export"}
    found = {
        case.check.name: case.perform()
        for case in subject_cases(subject(GOOD[name]))
        if case.check.name not in left_out
    }
    assert not {k: o.detail for k, o in found.items() if o.status == "failed"}


@pytest.mark.parametrize(
    ("name", "change", "check", "said"),
    FAULTS,
    ids=[f"{c}-{str(next(iter(d.values()))).split(':')[-1][:30]}" for _, d, c, _ in FAULTS],
)
def test_a_fault_is_found(name: str, change: dict[str, object], check: str, said: str) -> None:
    faulty = subject(replace(GOOD[name], **change))  # type: ignore[arg-type]
    case = next(c for c in subject_cases(faulty) if c.check.name == check)
    outcome = case.perform()
    assert outcome.status == "failed", f"{check} passed"
    assert said in outcome.detail


@pytest.mark.parametrize(
    ("name", "factory", "check"),
    [
        ("flow", "NanInFloat64", "batch-independence"),
        ("mixture", "DropsInEval", "memory-layout"),
    ],
)
def test_a_fault_is_left_to_the_check_that_knows_its_remedy(
    name: str, factory: str, check: str
) -> None:
    faulty = subject(replace(GOOD[name], **_factory(factory)))  # type: ignore[arg-type]
    case = next(c for c in subject_cases(faulty) if c.check.name == check)
    assert case.perform().status != "failed"


def test_a_loss_that_stops_gradients_is_no_derivative_and_says_so() -> None:
    fault = {"stop_gradient": True, **_factory("WrongGradient")}
    cases = subject_cases(subject(replace(GOOD["margin"], **fault)))  # type: ignore[arg-type]
    assert "gradcheck" not in {case.check.name for case in cases}


def test_no_check_goes_without_a_fault() -> None:
    tables = (
        *(MODEL_CHECKS, CAPABILITY_CHECKS, DENSITY_CHECKS, TEXT_CHECKS),
        *(LOSS_CHECKS, SAMPLER_CHECKS),
    )
    names = {check.name for table in tables for check in table}
    assert names <= {fault[2] for fault in FAULTS}
