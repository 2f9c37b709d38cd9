"""A complete new task in one file: it trains, is measured, resumes and is reported through base.py alone."""

import dataclasses
import json
import sys
from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest

from sigma_jax.data.clips import ClipSpec
from sigma_jax.data.loader import LoaderSpec, Shuffled, open_loader
from sigma_jax.models.sizes import VIDEO_SIZES
from sigma_jax.ops.tubes import TubeGrid, unit_pixels
from sigma_jax.report.run import write_report
from sigma_jax.runtime.durations import Duration
from sigma_jax.tasks import base
from sigma_jax.train import loop, setup
from tests.train.small import shrunk


class WeightOfColour:
    """An evaluator: one number from the parameters."""

    name, every, best_by = "colour", Duration(1, "steps", "every_steps"), "colour/red"

    def run(self, params, step):
        yield "colour/red", float(params["colour"][0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanColour(base.Task):
    """Learns the mean colour of the clips, three numbers: what a new file of tasks/ would hold."""

    split: str

    @classmethod
    def from_config(cls, config, mesh, compute):
        grid = TubeGrid(config.model.num_frames, config.model.image_size, tuple(config.model.tube_size))
        size = VIDEO_SIZES[config.model.size]
        return cls(mesh=mesh, grid=grid, size=size, compute=compute, split=config.data.split)

    @property
    def summary(self):
        return "the mean colour"

    def open_data(self, place, batch_size, seed):
        clips = ClipSpec(self.grid.num_frames, 1, self.grid.image_shape[0], "none")
        return open_loader(LoaderSpec(place.data_dir, self.split, clips, Shuffled(seed), batch_size))

    def init(self, key):
        return {"colour": jnp.full(3, 10.0)}

    def loss(self, params, frozen, batch, seed, step):
        return jnp.mean((jnp.mean(unit_pixels(batch["video"]), (0, 1, 2, 3)) - params["colour"]) ** 2), {}

    @property
    def cost(self):
        return base.TaskCost(self.grid.num_tubes, 0, 0)

    def flops(self):
        return {"mean": 1.0}

    def traffic(self, clips, num_params):
        return {"input": 1.0}

    def evaluators(self, place):
        return (WeightOfColour(),)


@pytest.fixture
def config(monkeypatch):
    module = ModuleType("sigma_jax.tasks.mean_colour")
    module.TASK = MeanColour
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(base.MODULES, "mean_colour", "mean_colour")
    changed = shrunk("configs/demo.py", **{"checkpoint.save_every_steps": "1", "optim.base_lr": "8.0"}).unlock()
    changed.task = "mean_colour"
    return changed.lock()


def test_a_file_and_a_config_make_a_task(config, shapes_dir, tmp_path):
    run = setup.build(config, tmp_path, str(shapes_dir))
    state = loop.train(run, command=["a", "command"])
    assert float(state.params["colour"][0]) < 10.0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "colour/red" in row] == [1, 2]
    assert (tmp_path / "best").is_dir()
    again = setup.build(config, tmp_path, str(shapes_dir))
    again = dataclasses.replace(again, init_state=lambda: pytest.fail("it starts anew"))
    np.testing.assert_array_equal(loop.train(again).params["colour"], state.params["colour"])
    (tmp_path / "warnings.jsonl").write_text(json.dumps({"step": 2, "warning": "the colour has <faded>"}) + "\n")
    page = write_report(run.trained(state), run.place).read_text()
    assert "the mean colour" in page and "step 2: the colour has &lt;faded&gt;" in page
