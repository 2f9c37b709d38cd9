"""The doctor names what is wrong, and only that."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from sigma_jax.runtime.folder_lock import owned
from sigma_jax.tools import doctor


@pytest.fixture
def examine(capsys):
    def call(*words: str) -> tuple[int, str]:
        code = doctor.main(["doctor", *words])
        return code, capsys.readouterr().out

    yield call
    doctor.FLAGS.unparse_flags()
    for name in ("config", "workdir", "checkpoint_dir", "data_dir", "platform"):
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
    assert "mesh {'data': 8, 'fsdp': 1}, 32 clips = 8 x 4 x 1" in text and "files can be written to" in text


def test_what_is_wrong_is_named(examine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(doctor, "DECODERS", {"no_such_decoder": "videos"})
    monkeypatch.setattr(doctor, "PACKAGES", ("jax", "no-such-package"))
    code, text = examine("--config=configs/k400.py", f"--workdir={tmp_path / 'file' / 'run'}", f"--data_dir={tmp_path}")
    assert code == 1
    failed = [line for line in text.splitlines() if "FAIL" in line]
    assert len(failed) == 5 and "5 check(s) failed" in text, text
    for words in (
        "not installed: no-such-package",
        "k400.py: this config needs a GPU or TPU, but JAX sees only CPUs",
        "no_such_decoder (videos) does not import",
        "cannot be written (NotADirectoryError",
    ):
        assert any(words in line for line in failed), text


def test_the_cpu_may_be_meant(examine):
    code, text = examine("--config=configs/k400.py", "--platform=cpu")
    assert code == 0 and "CPU only" in text, text


def test_a_wrong_mesh_and_full_shared_memory(examine, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**28))
    reading = ("--config.data.num_workers=2", "--config.batch_size=8192")
    code, text = examine("--config=configs/demo.py", "--config.mesh.fsdp=3", *reading)
    assert code == 1 and "2 check(s) failed" in text, text
    assert "data=-1 x fsdp=3 does not make 8 devices" in text
    assert "/dev/shm has 0.2 GiB free, 2 workers want " in text


def test_shared_memory_is_that_of_the_clips_of_the_task(examine, monkeypatch):
    """Clips to count in are longer than a window of the network; several copies of a video are several clips."""
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    wanted = {}
    for config in (
        "finetune.py:dataset=ucf101,size=tiny",
        "finetune.py:dataset=k400,size=tiny",
        "severe.py:score=ucf_rc",
    ):
        text = examine(f"--config=configs/{config}", "--config.data.num_workers=1", "--config.batch_size=8192")[1]
        wanted[config] = float(re.search(r"1 workers want ([\d.]+)", text)[1])
    copies, one, counting = wanted.values()
    assert 1.5 * one < copies < 2.5 * one and counting > 100 * one


@pytest.mark.parametrize(
    "client,advice",
    [
        ("raise ImportError('Please install gcsfs')", 'Please install gcsfs): pip install -e ".[cloud]"'),
        ("raise type('HttpError', (Exception,), {})('no such bucket')", "HttpError: no such bucket): log in (gcloud"),
        ("import time; time.sleep(60)", "no answer within 1 s): log in (gcloud"),
    ],
)
def test_a_bucket_that_does_not_answer(examine, monkeypatch, client, advice):
    """Whatever a storage client raises, prints, or waits for."""
    monkeypatch.setattr(doctor, "PROBE", f"print('noise')\n{client}")
    monkeypatch.setattr(doctor.refusal, "__defaults__", (1,) if "sleep" in client else (50,))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla")
    code, text = examine("--checkpoint_dir=gs://bucket/run")
    assert code == 1 and "2 check(s) failed" in text and "noise" not in text, text
    assert text.count(advice) == 2 and "cache" in text.splitlines()[-2]


def test_mistyped_values_are_named(examine):
    code, text = examine("--config=configs/demo.py", "--config.batch_sise=32")
    assert code == 1 and "batch_sise is unknown" in text and "'batch_size'" in text


def test_every_package_that_is_required_is_looked_for():
    lines = (Path(__file__).parents[2] / "requirements.txt").read_text().splitlines()
    required = {re.match(r"[\w-]+", line)[0] for line in lines if line and not line.startswith("#")}
    modules = {"opencv-python-headless": "cv2"}
    assert required <= {
        *doctor.PACKAGES,
        *doctor.DECODERS,
        *(name for name in modules if modules[name] in doctor.DECODERS),
    }


def test_data_are_opened_and_decoded_and_a_run_that_has_the_folder_is_named(examine, shapes_dir, tmp_path):
    with owned(tmp_path, print):
        code, text = examine(f"--data_dir={shapes_dir}", f"--workdir={tmp_path}")
    assert code == 0, text
    assert "48 records of split 'train'" in text and "the first record decodes, 32 x 32 pixels" in text
    assert f"note  {tmp_path} is in use by process {os.getpid()}" in text
    code, text = examine(f"--data_dir={shapes_dir}", "--config=configs/demo.py", "--config.data.split=dev")
    assert code == 1 and "has no split 'dev'" in text


def test_pictures_need_no_library_for_videos(examine, tmp_path, monkeypatch):
    picture = tmp_path / "images" / "train" / "a" / "1.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(picture)
    monkeypatch.setitem(sys.modules, "av", None)
    code, text = examine(f"--data_dir={tmp_path / 'images'}")
    assert code == 0 and "these data need it not" in text and "6 x 8 pixels" in text, text
    code, text = examine()
    assert code == 1 and "FAIL  av (H.264" in text, text


def test_a_check_that_breaks_is_a_finding(examine, monkeypatch):
    monkeypatch.setattr(doctor.jax, "pmap", None)
    code, text = examine()
    assert code == 1 and "arithmetic FAIL  TypeError" in text and "1 check(s) failed" in text
