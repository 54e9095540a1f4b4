"""``kexue list``: what is shown, in which form, and what is said of what is broken."""

from __future__ import annotations

import json
import re

import pytest
from rich.cells import cell_len

HEADER = "name\tplugin\tmodel\tverbs\tsize\tlicense\tstatus\tneeds"


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_piped_it_is_tab_separated_with_a_header(kexue, toys):
    done = kexue("list")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == HEADER
    assert rows(done.stdout)[1:] == [
        [
            *("toy-bears", "kexue-toy", "toy", "sample, reconstruct, interpolate, score"),
            *("3", "unknown", "unavailable", ""),
        ],
        [
            *("toy-faces", "kexue-toy", "toy", "sample, reconstruct, score"),
            *(str(13_400_000 + 246), "LicenseRef-toys-noncommercial", "mirror", ""),
        ],
    ]


def test_json_has_the_same_and_chinese_unescaped(kexue, toys):
    found = json.loads(kexue("list", "faces", "--json").stdout)
    assert [w["name"] for w in found] == ["toy-faces"]
    assert found[0]["verbs"] == ["sample", "reconstruct", "score"]
    assert "玩具的脸" in kexue("list", "--json").stdout


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_table_fits_its_terminal_and_its_columns_line_up(terminal, toys, columns):
    for kind in ("weights", "model", "plugin"):
        shown = terminal("list", "--kind", kind, columns=columns)
        lines = shown.splitlines()
        assert terminal.code == 0
        assert "\t" not in shown
        assert max(map(cell_len, lines)) <= columns
    lines = terminal("list", "--kind", "model", columns=columns).splitlines()
    start = cell_len(lines[0][: lines[0].index("summary")])
    row = next(line for line in lines if line.startswith("toy"))
    assert start == cell_len(row[: row.index("A toy")])


def test_a_narrow_terminal_keeps_names_status_and_terms_whole_words(terminal, toys):
    shown = terminal("list", columns=60)
    for word in ("toy-faces", "reconstruct,", "mirror", "unavailable", "noncommercial"):
        assert word in shown
    assert "Not shown for want of room: plugin, model" in shown
    assert "13.4 MB" in terminal("list", columns=120)


def test_no_color_is_honoured(terminal, toys):
    # NO_COLOR is about colours; bold headings stay (https://no-color.org).
    styles = set(re.findall(r"\x1b\[([\d;]*)m", terminal("list", NO_COLOR="1", raw=True)))
    assert styles <= {"0", "1", "2"}
    assert "\x1b[" not in terminal("list", TERM="dumb", raw=True)


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["FACES"], ["toy-faces"]),
        (["toy-*"], ["toy-bears", "toy-faces"]),
        (["*-b*"], ["toy-bears"]),
        (["玩具"], ["toy-faces"]),
        (["--license", "NONCOMMERCIAL"], ["toy-faces"]),
        (["--capability", "interpolate"], ["toy-bears"]),
        (["--installed"], ["toy-bears", "toy-faces"]),
        (["--kind", "model"], ["glow", "nice", "realnvp", "toy"]),
        (["--kind", "model", "--capability", "embed"], []),
        (["--kind", "loss", "toy"], ["toy-loss"]),
        (["--kind", "recipe", "toy"], ["toy-recipe"]),
        (["--kind", "sampler", "latent*"], ["latent-prior", "latent-traversal"]),
        (["--kind", "adapter", "nothing"], []),
        (["--kind", "plugin", "toy"], ["kexue-toy"]),
    ],
)
def test_filters(invoke, toys, args, names, monkeypatch):
    monkeypatch.setenv("KEXUE_PLUGINS", "kexue-flow,kexue-toy")  # whatever else is installed here
    found = json.loads(invoke("list", *args, "--json").stdout)
    assert [row["name"] for row in found] == names


def test_nothing_found_is_said_and_no_error(kexue, toys):
    done = kexue("list", "toy-facs")
    assert done.returncode == 0
    assert done.stdout == HEADER + "\n"
    assert done.stderr == "kexue: no weights match. Did you mean toy-faces or toy-bears?\n"


def test_weights_without_their_plugin_say_what_they_need(kexue, catalogue):
    catalogue.add("toy-faces", {"model.safetensors": b"1"}, model="toy")
    assert rows(kexue("list").stdout)[1][-2:] == ["mirror", "kexue-toy"]
    assert kexue("list", "--installed").stdout == HEADER + "\n"
    row = rows(kexue("list", "--kind", "plugin", "toy").stdout)[1]
    assert row == ["kexue-toy", "", "not installed", "kexue-toy>=1,<2", "Toys"]


def test_a_broken_plugin_is_one_line_and_the_rest_goes_on(kexue, site, toys):
    site.install("kexue-sick", "import no_such_module")
    site.install("kexue-exits", "raise SystemExit(3)")
    for args in (["list"], ["show", "toy-faces"], ["plugins"]):
        done = kexue(*args)
        assert done.returncode == 0
        assert done.stderr == (
            "kexue: 2 plugins have problems: kexue-exits (SystemExit: 3), "
            "kexue-sick (cannot import no_such_module). Run `kexue doctor`\n"
        )
    assert "toy-faces" in kexue("list").stdout


def test_a_bad_entry_is_one_line_and_the_rest_goes_on(kexue, toys, catalogue):
    catalogue.content["weights"]["Bad Name"] = {"plugin": "kexue-toy", "files": {}}
    catalogue.write()
    done = kexue("list")
    assert done.returncode == 0
    assert "toy-faces" in done.stdout
    assert done.stderr.startswith("kexue: 1 registry entry is left out: weights: Bad Name (")
    assert done.stderr.count("\n") == 1


def test_an_odd_mirror_is_one_line(kexue, toys, tmp_path):
    done = kexue("list", KEXUE_MIRROR=str(tmp_path / "nowhere"))
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "KEXUE_MIRROR names" in done.stderr


def test_control_characters_of_a_summary_reach_no_terminal(terminal, kexue, catalogue):
    catalogue.content["plugins"]["kexue-evil"] = {"summary": "a\x1b[2Jb\tc\nd", "requires": "x"}
    catalogue.write()
    assert "\x1b[2J" not in terminal("list", "--kind", "plugin", raw=True)
    assert "a [2Jb c d" in kexue("list", "--kind", "plugin").stdout
