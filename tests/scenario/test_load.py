"""Scenario files, sections and flags: what wins, what an instance inherits, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from servesim import Scenario
from servesim.errors import InputError

BASE = """
[model]
id = "Qwen/Qwen3-0.6B"
[hardware]
device = "h100_sxm"
[engine]
max_num_seqs = 64
[workload]
kind = "poisson"
rate = 3
"""


def write(folder: Path, text: str, name: str = "one.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_gives_one_instance_named_after_it(tmp_path: Path) -> None:
    scenario = Scenario.load(write(tmp_path, BASE))
    assert scenario.name == "one"
    (instance,) = scenario.instances
    assert instance.engine.max_num_seqs == 64
    assert instance.engine.max_num_batched_tokens is None  # the device decides
    assert scenario.workload.options == {"rate": 3.0}
    assert scenario.router.kind == "round_robin"


def test_flags_override_the_file_and_keep_the_rest(tmp_path: Path) -> None:
    flags = {"engine": {"max_num_seqs": 8}, "workload": {"num_requests": 5}}
    scenario = Scenario.load(write(tmp_path, BASE), flags)
    assert scenario.instances[0].engine.max_num_seqs == 8
    assert scenario.workload.options == {"rate": 3.0, "num_requests": 5}


def test_another_kind_of_workload_drops_the_options_of_the_first(tmp_path: Path) -> None:
    scenario = Scenario.load(write(tmp_path, BASE), {"workload": {"kind": "burst"}})
    assert (scenario.workload.kind, scenario.workload.options) == ("burst", {})


def test_instances_override_sections_and_flags_override_instances(tmp_path: Path) -> None:
    text = (
        BASE
        + """
[[instance]]
name = "a"
[[instance]]
name = "b"
count = 2
hardware.device = "l40s"
engine.max_num_seqs = 16
engine.max_model_len = 1000
"""
    )
    path = write(tmp_path, text)
    first, second = Scenario.load(path).instances
    assert (first.hardware.device, second.hardware.device) == ("h100_sxm", "l40s")
    assert (first.engine.max_num_seqs, second.engine.max_num_seqs) == (64, 16)
    assert (first.count, second.count) == (1, 2)
    flagged = Scenario.load(path, {"engine": {"max_num_seqs": 4}}).instances
    assert [one.engine.max_num_seqs for one in flagged] == [4, 4]
    assert flagged[1].engine.max_model_len == 1000


def test_options_are_checked_together_not_one_layer_at_a_time(tmp_path: Path) -> None:
    text = BASE.replace("max_num_seqs = 64", "max_num_batched_tokens = 32")
    path = write(tmp_path, text + "[[instance]]\nengine.max_num_seqs = 32\n")
    assert Scenario.load(path).instances[0].engine.max_num_batched_tokens == 32
    flags = {"engine": {"max_num_seqs": 33}}
    with pytest.raises(InputError, match="max_num_batched_tokens"):
        Scenario.load(write(tmp_path, text), flags)


def test_nameless_instances_get_different_names(tmp_path: Path) -> None:
    scenario = Scenario.load(write(tmp_path, BASE + "[[instance]]\n[[instance]]\n"))
    names = [one.name for one in scenario.instances]
    assert len(set(names)) == 2


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = BASE.replace('kind = "poisson"\nrate = 3', 'kind = "jsonl"\npath = "t/a.jsonl"')
    text += '[output]\nfolder = "results"\n'
    text = text.replace('id = "Qwen/Qwen3-0.6B"', 'id = "./model"')
    scenario = Scenario.load(write(tmp_path, text))
    assert scenario.workload.options["path"] == tmp_path / "t/a.jsonl"
    assert scenario.output.folder == tmp_path / "results"
    assert scenario.instances[0].model.id == str(tmp_path / "model")
    lengths = '[workload]\nprompt_tokens = {kind = "empirical", path = "l.csv", column = "n"}\n'
    text = BASE.replace('[workload]\nkind = "poisson"\nrate = 3\n', lengths)
    (tmp_path / "l.csv").write_text("n\n7\n")
    options = Scenario.load(write(tmp_path, text)).workload.options
    assert options["prompt_tokens"]["path"] == tmp_path / "l.csv"


def test_of_and_changed() -> None:
    scenario = Scenario.of(
        model="Qwen/Qwen3-0.6B",
        hardware="h100_sxm",
        workload={"kind": "burst", "num_requests": 9},
    )
    assert scenario.name == "qwen3-0.6b"
    changed = scenario.changed(hardware="l40s", workload={"num_requests": 3})
    assert changed.instances[0].hardware.device == "l40s"
    assert changed.workload.options == {"num_requests": 3}
    assert scenario.workload.options == {"num_requests": 9}
    assert changed.changed(hardware="h100_sxm", workload={"num_requests": 9}) == scenario


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("[engine]", "[engin]"), "unknown section 'engin'; did you mean 'engine'?"),
        (("max_num_seqs", "max_seqs"), r"unknown key in \[engine\] 'max_seqs'; did you mean"),
        (("= 64", '= "64"'), r"\[engine\] max_num_seqs must be an integer, not '64'"),
        (("= 64", "= 0"), "max_num_seqs must be at least 1, not 0"),
        (("poisson", "poison"), "unknown workload 'poison'; did you mean 'poisson'?"),
        (("rate = 3", "rat = 3"), r"unknown key in \[workload\] 'rat'; did you mean 'rate'?"),
        (("rate = 3", "rate = true"), r"\[workload\] rate must be a number, not True"),
        (("[model]", "[model"), "not TOML"),
        (("[model]", "instance = 3\n[model]"), r"instances are written \[\[instance\]\]"),
        (("[model]", "engine.x = 1\n[model]"), "not TOML"),
        (("[model]", 'name = "a/b"\n[model]'), "usable as a folder's name, not 'a/b'"),
        (('id = "Qwen/Qwen3-0.6B"', ""), "no model is named"),
        (('device = "h100_sxm"', ""), "no device is named"),
        (("[model]", "[[instance]]\ncount = 0\n[model]"), "count must be at least 1, not 0"),
        (("[model]", "[[instance]]\nengin.x = 0\n[model]"), "did you mean 'engine'"),
        (("[model]", "[[instance]]\nengine = 0\n[model]"), "must be a table, not 0"),
    ],
)
def test_refused_files_are_named(tmp_path: Path, edit: tuple[str, str], message: str) -> None:
    path = write(tmp_path, BASE.replace(*edit))
    with pytest.raises(InputError, match=message) as caught:
        Scenario.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
