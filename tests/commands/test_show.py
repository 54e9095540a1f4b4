"""``kexue show``: weights, specs, plugins; ambiguous and unknown names."""

from __future__ import annotations

import json

import pytest

from kexue_core.errors import KexueError


def facts(invoke, *args):
    done = invoke("show", *args, "--json")
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_weights_with_files_results_and_the_options_of_their_sampler(invoke, toys, catalogue):
    found = facts(invoke, "toy-faces")
    assert found["kind"] == "weights"
    assert found["license"] == "LicenseRef-toys-noncommercial"
    assert found["folder"] == str(catalogue.mirror / "toy-faces")
    assert found["status"] == "mirror"
    assert found["files"]["model.safetensors"]["size"] == 13_400_000
    assert len(found["files"]["model.safetensors"]["sha256"]) == 64
    assert found["results"][0]["split"] == "val"
    assert found["preprocess"]["size"] == 8
    # The weights' own setting comes before the sampler's default; the rest is the sampler's.
    assert found["sampler"]["name"] == "latent-prior"
    assert found["sampler"]["options"]["temperature"]["default"] == 0.7
    assert found["sampler"]["options"]["batch_size"]["default"] == 16


def test_on_a_terminal(terminal, toys):
    shown = terminal("show", "toy-faces", columns=80)
    for text in (
        "LicenseRef-toys-noncommercial",
        "13.4 MB",
        "bits_per_dim  2.71828",
        "temperature",
        "kexue reconstruct toy-faces",
        "玩具的脸",
    ):
        assert text in shown


def test_piped_it_is_keys_and_values_then_tables(kexue, toys):
    lines = kexue("show", "toy-faces").stdout.splitlines()
    assert lines[:2] == ["kind\tweights", "name\ttoy-faces"]
    assert "metric\tvalue\tdataset\tsplit\tn\tseed" in lines
    assert "bits_per_dim\t2.71828\tToyA\tval\t1000\t0" in lines


def test_a_config_that_is_not_what_it_should_be_is_not_shown(kexue, toys, catalogue):
    path = catalogue.mirror / "toy-faces" / "config.json"
    path.write_bytes(path.read_bytes().replace(b"0.7", b"9.7"))
    done = kexue("show", "toy-faces", "--json")
    assert "sampler" not in json.loads(done.stdout)
    assert "config.json" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "kind", "expected"),
    [
        (["toy"], "model", {"weights": ["toy-bears", "toy-faces"], "recipes": ["toy-recipe"]}),
        (["old-toy"], "model", {"name": "toy"}),
        (["kexue-toy::toy"], "model", {"qualified": "kexue-toy::toy"}),
        (["toy-loss"], "loss", {"example": "toy_model:args"}),
        (["toy-recipe"], "recipe", {"data": "user/set", "model": "toy"}),
        (["latent-prior"], "sampler", {"plugin": "kexue"}),
        (["kexue-toy"], "plugin", {"version": "1.0", "installed": True}),
        (["glow"], "model", {"post": "https://kexue.fm/archives/5807"}),
    ],
)
def test_other_kinds(invoke, toys, args, kind, expected):
    found = facts(invoke, *args)
    assert found["kind"] == kind
    assert {key: found[key] for key in expected} == expected


def test_an_ambiguous_name_lists_forms_that_work(kexue, invoke, site, toys, toy_source):
    site.install("kexue-two", toy_source.replace("toy_", "two_"))
    done = kexue("show", "toy")
    assert done.returncode == 1
    forms = "Write kexue show --kind model kexue-toy::toy or --kind model kexue-two::toy"
    assert forms in done.stderr
    assert facts(invoke, "--kind", "model", "kexue-two::toy")["plugin"] == "kexue-two"


def test_what_is_not_installed_names_the_command_that_installs_it(kexue, invoke, catalogue):
    catalogue.add("toy-faces", {"model.safetensors": b"1"}, model="toy")
    done = kexue("show", "toy")
    assert done.returncode == 1
    assert "pip install kexue-toy" in done.stderr
    assert facts(invoke, "kexue-toy")["installed"] is False
    assert facts(invoke, "toy-faces")["installed"] is False


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("toy-face", "Did you mean toy-faces"),
        ("hf:some/repo", "Run `kexue pull hf:some/repo`"),
        ("file:nowhere", "nowhere holds no config.json"),
        ("kexue-tox", "Did you mean kexue-toy"),
    ],
)
def test_unknown_names(invoke, toys, name, hint):
    with pytest.raises(KexueError) as caught:
        invoke("show", name)
    assert hint in str(caught.value)


def test_a_folder_of_ones_own(invoke, toys, catalogue):
    found = facts(invoke, f"file:{catalogue.mirror / 'toy-faces'}")
    assert found["model"] == "toy"
    assert found["verbs"] == ["sample", "reconstruct", "interpolate", "score"]
