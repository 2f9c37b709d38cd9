"""The doctor names what is wrong, and only that."""

import pytest

from sigma_jax.tools import doctor


@pytest.fixture
def examine(capsys):
    def call(*words: str) -> tuple[int, str]:
        code = doctor.main(["doctor", *words])
        return code, capsys.readouterr().out

    yield call
    doctor.FLAGS.unparse_flags()
    for name in ("config", "workdir", "data_dir"):
        doctor.FLAGS[name].value = None


def test_a_healthy_machine_passes(examine, tmp_path):
    code, text = examine("--config=configs/demo.py", "--config.batch_size=32", f"--workdir={tmp_path / 'run'}")
    assert code == 0 and text.rstrip().endswith("nothing failed"), text
    for words in (
        "1 process(es) x 8 local device(s)",
        "CPU only",
        "a sum over 8 local device(s) is right",
        "av (H.264",
    ):
        assert words in text, text
    assert "mesh {'data': 8, 'fsdp': 1}, 32 clips = 8 x 4 x 1" in text and "takes files and gives them back" in text


def test_what_is_wrong_is_named(examine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor, "DECODERS", {"no_such_decoder": "videos"})
    monkeypatch.setattr(doctor, "PACKAGES", ("jax", "no-such-package"))
    code, text = examine("--config=configs/k400.py", f"--workdir={tmp_path / 'file' / 'run'}", f"--data_dir={tmp_path}")
    assert code == 1
    failed = [line for line in text.splitlines() if "FAIL" in line]
    assert len(failed) == 4 and "4 check(s) failed" in text, text
    for words in ("not installed: no-such-package", "no_such_decoder (videos) does not import", "does not take files"):
        assert any(words in line for line in failed), text


def test_mistyped_values_are_named(examine):
    code, text = examine("--config=configs/demo.py", "--config.batch_sise=32")
    assert code == 1 and "batch_sise is unknown" in text and "'batch_size'" in text
