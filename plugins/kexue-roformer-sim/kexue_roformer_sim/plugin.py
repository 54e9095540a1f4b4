"""What kexue-roformer-sim declares. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator

from kexue_core import AdapterSpec, ModelSpec, RecipeSpec, hookimpl
from kexue_core.specs import Spec

PAPERS = ("2104.09864",)


@hookimpl
def kexue_components() -> Iterator[Spec]:
    """Declare the model, the readers of its public checkpoints, and the recipes."""
    yield ModelSpec(
        name="roformer-sim",
        factory="kexue_roformer_sim.model:RoFormerSim",
        config="kexue_roformer_sim.encoder:EncoderConfig",
        summary="RoFormer-Sim and SimBERT: sentence vectors, search and rewriting with one net",
        post=8454,
        papers=(*PAPERS, "1905.03197"),
        capabilities=("text-encoder", "rewriter"),
        tiny={
            "vocab_size": 2_000,
            "embedding_size": 16,
            "hidden_size": 24,
            "layers": 2,
            "heads": 2,
            "intermediate_size": 32,
            "pooling": "mean",
            "token_weights": True,
        },
        example_input="kexue_roformer_sim.model:example_input",
    )
    yield AdapterSpec(
        name="roformer-sim",
        factory="kexue_roformer_sim.adapters:read_roformer",
        model="roformer-sim",
        formats=("pickle", "safetensors", "tensorflow"),
        summary="RoFormer-Sim as TensorFlow and Hugging Face hold it",
        post=8454,
        papers=PAPERS,
    )
    yield AdapterSpec(
        name="simbert",
        factory="kexue_roformer_sim.adapters:read_simbert",
        model="roformer-sim",
        formats=("pickle", "safetensors", "tensorflow"),
        summary="SimBERT, or another BERT with a pooler, as TensorFlow and Hugging Face hold it",
        post=7427,
    )
    yield RecipeSpec(
        name="roformer-sim-tiny",
        factory="kexue_roformer_sim.tiny:RoFormerSimTiny",
        model="roformer-sim",
        summary="Vectors and rewriting in 11 MiB from pairs alone; 90 minutes of one core",
        post=8454,
        papers=PAPERS,
    )
    yield RecipeSpec(
        name="roformer-sim-stage1",
        factory="kexue_roformer_sim.stages:Stage1",
        model="roformer-sim",
        summary="UniLM, contrast and corruption in one pass, from synonyms as SimBERT's corpus",
        post=8454,
        papers=PAPERS,
    )
    yield RecipeSpec(
        name="roformer-sim-stage2",
        factory="kexue_roformer_sim.stages:Stage2",
        model="roformer-sim",
        summary="Learns the cosines of any teacher's vectors, and goes on writing",
        post=8454,
        papers=PAPERS,
    )
    yield RecipeSpec(
        name="roformer-sim-supervised",
        factory="kexue_roformer_sim.stages:Supervised",
        model="roformer-sim",
        summary="Labelled pairs of mixed kinds by [u; v; |u - v|], same or not and inference",
        post=8541,
        papers=PAPERS,
    )
