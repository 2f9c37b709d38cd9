"""Every command: --help, a wrong flag, a folder that is not there: usage or one sentence, never a traceback."""

import dataclasses
import importlib
import logging
import pkgutil

import pytest
from absl.testing import flagsaver

from sigma_jax import tools

# What each command needs beside the folder that is missing; {absent} is that folder, {file} a file in its place.
MISSING = {
    "main": ["--config=configs/demo.py", "--workdir={tmp}/run", "--data_dir={absent}", "--platform=cpu"],
    "tools.bench": ["data", "--data_dir={absent}"],
    "tools.compare": ["{absent}"],
    "tools.convert": ["{absent}", "{tmp}/out.npz"],
    "tools.doctor": ["--config=configs/demo.py", "--data_dir={absent}"],
    "tools.evidence": ["--workdir={file}/x", "--data_dir={absent}"],
    "tools.features": ["--videos={absent}", "--init={absent}", "--out={tmp}/out"],
    "tools.measure": ["--folder={file}/x", "--only=objective", "--smoke"],
    "tools.model_zoo": ["--manifest={absent}"],
    "tools.pictures": ["--video={absent}", "--init={absent}", "--out={tmp}/out"],
    "tools.plan": ["--config={absent}/x.py"],
    "tools.prepare": ["--videos={absent}", "--out={tmp}/out"],
    "tools.probe": ["--workdir={absent}", "--data_dir={absent}"],
    "tools.probe_attentive": ["--init={absent}", "--data_dir={absent}", "--out={tmp}/out"],
    "tools.report": ["--workdir={absent}", "--data_dir={absent}"],
    "tools.segment": [
        "--data_dir={absent}",
        "--dataset=davis",
        "--protocol=propagation",
        "--out={tmp}/out",
        "--init={absent}",
    ],
    "tools.severe": ["--runs={absent}"],
    "tools.severe_toys": ["--init={absent}", "--workdir={tmp}/out"],
    "tools.synthetic": ["--out={file}/x"],
    "tools.synthetic_severe": ["--out={file}/x"],
    "tools.verify": ["--data_dir={absent}"],
}
OUT_OF_RANGE = {  # a flag whose value the command cannot mean
    "tools.bench": "--workers=1,x",
    "tools.convert": "--num_heads=0",
    "tools.features": "--stride=0",
    "tools.pictures": "--num_frames=-8",
    "tools.probe": "--k=0",
    "tools.probe_attentive": "--num_heads=-1",
    "tools.segment": "--overlays=-1",
    "tools.severe_toys": "--seeds=0",
    "tools.synthetic": "--train=-3",
    "tools.synthetic_severe": "--val=-3",
    "tools.verify": "--workers=-1",
}
WITH_PROGRAM_NAME = ("main", "tools.bench", "tools.doctor", "tools.plan")  # absl's convention


@pytest.fixture
def call(capsys, monkeypatch):
    """(exit status, what was written) of a command in this process."""
    for name in MISSING:  # before: flags that are defined inside the saver are deleted by it
        importlib.import_module(f"sigma_jax.{name}")
    monkeypatch.setattr(logging, "raiseExceptions", False)  # about the captured stderr of an earlier test
    said = []

    def run(name: str, words: list[str]) -> tuple[int, str]:
        module = importlib.import_module(f"sigma_jax.{name}")
        main = dataclasses.replace(module.main, say=said.append) if name == "main" else module.main
        try:
            status = main([name, *words] if name in WITH_PROGRAM_NAME else words)
        except SystemExit as end:  # argparse
            status = end.code
        written = capsys.readouterr()
        return status, written.out + written.err + "\n".join(said)

    with flagsaver.flagsaver():
        yield run


def test_the_list_is_complete():
    names = [f"tools.{module.name}" for module in pkgutil.iter_modules(tools.__path__) if not module.ispkg]
    found = {name for name in names if hasattr(importlib.import_module(f"sigma_jax.{name}"), "main")}
    assert set(MISSING) == found | {"main"}


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_usage(name, flag, call):
    status, text = call(name, [flag])
    assert status == 0 and "python -m sigma_jax" in text and "Traceback" not in text


@pytest.mark.parametrize("name", MISSING)
def test_a_wrong_flag_is_named(name, call):
    status, text = call(name, [*(MISSING[name][:1] if name == "tools.bench" else []), "--no_such_flag=1"])
    assert status == 2 and "Traceback" not in text
    assert "no_such_flag" in text or "required" in text  # argparse looks for the required ones first


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_folder_is_a_sentence(name, call, tmp_path):
    (tmp_path / "file").write_text("")
    places = {"tmp": tmp_path, "absent": tmp_path / "absent", "file": tmp_path / "file"}
    status, text = call(name, [word.format(**places) for word in MISSING[name]])
    assert status in (1, 2) and "Traceback" not in text
    assert str(tmp_path) in text, text


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_number_out_of_range_is_wrong_usage(name, call):
    mode = ["data"] if name == "tools.bench" else []
    status, text = call(name, [*mode, OUT_OF_RANGE[name]])
    assert status == 2 and "Traceback" not in text
    assert "expected a whole number from " in text
