"""What commands look up by name is part of an installation, and is found from any folder."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_package_finds_its_configs_from_another_folder(tmp_path):
    command = [sys.executable, "setup.py", "-q", "egg_info", f"--egg-base={tmp_path}", "build_py"]
    subprocess.run([*command, f"--build-lib={tmp_path / 'installed'}"], cwd=ROOT, check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = (
        "from sigma_jax.runtime import config; c = config.load_config('configs/k400.py:size=S'); print(c.model.size)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", program + "; print(config.__file__)"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["S", str(tmp_path / "installed" / "sigma_jax" / "runtime" / "config.py")]
    for path in [*(ROOT / "configs").glob("*.py"), *(ROOT / "sigma_jax/datasets/label_maps").glob("*.txt")]:
        name = path.relative_to(ROOT / "sigma_jax" if "sigma_jax/" in str(path.relative_to(ROOT)) else ROOT)
        assert (tmp_path / "installed" / "sigma_jax" / name).exists(), name
