"""Plans: reading compiled programs, the search for the largest batch, forecasts here and for pods that are not here."""

import dataclasses
import importlib.util
import json
import re
import time
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from sigma_jax.models.fp8 import Fp8Block
from sigma_jax.models.transformer import Block, init_stack, run_stack
from sigma_jax.objective.sigma import symmetric_loss
from sigma_jax.ops.scores import platform_sweeps
from sigma_jax.ops.tpu_attention import attend_on_tpu
from sigma_jax.runtime import config as configs
from sigma_jax.runtime.compilation import step_compilation
from sigma_jax.runtime.sharding import make_mesh
from sigma_jax.runtime.topologies import nearest_topology, topology_devices
from sigma_jax.tools import plan
from sigma_jax.tools.planning import text as planning_text
from sigma_jax.tools.planning.chips import Rates, collective_seconds, find_chip
from sigma_jax.tools.planning.forecast import (
    Compiled,
    DoesNotFit,
    compile_program,
    count_flops,
    forecast,
    usable_memory,
)
from sigma_jax.tools.planning.hlo import Collective, Module, group_axes
from sigma_jax.tools.planning.kernels import by_kind, by_part, kernels_of
from sigma_jax.tools.planning.search import advice, largest_batch
from sigma_jax.train.setup import build_task, plan_program

SUM_AND_SLICE = """HloModule step

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%fused (p0: f32[12,100], p1: s32[]) -> f32[100] {
  %p0 = f32[12,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %slice = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,100}
}
"""

HLO = """
%body (s: (s32[], f32[100], f32[12,100])) -> (s32[], f32[100], f32[12,100]) {
  %s = (s32[], f32[100]{0}, f32[12,100]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[100]{0} get-tuple-element(%s), index=1
  %w = f32[12,100]{1,0} get-tuple-element(%s), index=2
  %row = f32[100]{0} fusion(%w, %i), kind=kLoop, calls=%fused
  %r = f32[100]{0} all-reduce(%row), replica_groups=[2,4]<=[8], to_apply=%sum, metadata={op_name="jit(step)/while/x"}
  ROOT %t = (s32[], f32[100]{0}, f32[12,100]{1,0}) tuple(%i, %r, %w)
}

%condition (s: (s32[], f32[100], f32[12,100])) -> pred[] {
  %s = (s32[], f32[100]{0}, f32[12,100]{1,0}) parameter(0)
  %n = s32[] constant(12)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[100], w: f32[12,100]) -> f32[100] {
  %x = f32[100]{0} parameter(0)
  %w = f32[12,100]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], f32[100]{0}, f32[12,100]{1,0}) tuple(%zero, %x, %w)
  %loop = (s32[], f32[100]{0}, f32[12,100]{1,0}) while(%init), condition=%condition, body=%body
  %y = f32[100]{0} get-tuple-element(%loop), index=1
  %fast = f32[100]{0:T(256)S(1)} add(%y, %y)
  ROOT %z = f32[100]{0} add(%fast, %y)
}
"""


def test_loops_are_multiplied_out():
    module = Module(SUM_AND_SLICE + HLO)
    (found,) = module.collectives({"data": 2, "fsdp": 4})
    assert found == Collective("all-reduce", 400, 12, ("fsdp",), "jit(step)/while/x")
    row, reduce = (
        400 + 400 + 4,
        800,
    )  # a fusion that slices reads the slice (and its index); in and out of the all-reduce
    on_chip_add, last_add = 800, 800  # what lies in on-chip memory costs nothing
    assert module.memory_bytes() == 12 * (row + reduce) + on_chip_add + last_add


STACKING = """HloModule step

%fused (p0: bf16[12,100], p1: bf16[100], p2: s32[]) -> (bf16[12,100], bf16[100]) {
  %p0 = bf16[12,100]{1,0} parameter(0)
  %p1 = bf16[100]{0} parameter(1)
  %p2 = s32[] parameter(2)
  %twice = bf16[100]{0} add(%p1, %p1)
  %row = bf16[1,100]{1,0} reshape(%twice)
  %stack = bf16[12,100]{1,0} dynamic-update-slice(%p0, %row, %p2, %p2)
  ROOT %both = (bf16[12,100]{1,0}, bf16[100]{0}) tuple(%stack, %twice)
}

ENTRY %main (stack: bf16[12,100], x: bf16[100], i: s32[]) -> bf16[100] {
  %stack = bf16[12,100]{1,0} parameter(0)
  %x = bf16[100]{0} parameter(1)
  %i = s32[] parameter(2)
  %both = (bf16[12,100]{1,0}, bf16[100]{0}) fusion(%stack, %x, %i), kind=kLoop, calls=%fused
  %wide = bf16[12,100]{1,0} get-tuple-element(%both), index=0
  %start = ((bf16[12,100]{1,0}), bf16[3,100]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%wide), slice={[0:3], [0:100]}
  ROOT %part = bf16[3,100]{1,0:S(1)} slice-done(%start)
}
"""


def test_only_the_part_that_moves_is_counted():
    """A row stacked in place beside another result; a slice fetched into on-chip memory."""
    read, stacked, beside, fetched = 200 + 4, 200, 200, 600
    assert Module(STACKING).memory_bytes() == read + stacked + beside + fetched


NESTED = """
%stacking (s0: f32[12,100], s1: f32[1,100], s2: s32[]) -> f32[12,100] {
  %s0 = f32[12,100]{1,0} parameter(0)
  %s1 = f32[1,100]{1,0} parameter(1)
  %s2 = s32[] parameter(2)
  ROOT %stacked = f32[12,100]{1,0} dynamic-update-slice(%s0, %s1, %s2, %s2)
}

%product (w: f32[12,100], i: s32[], out: f32[12,100], m: f32[100,100]) -> f32[12,100] {
  %w = f32[12,100]{1,0} parameter(0)
  %same = f32[12,100]{1,0} bitcast(%w)
  %i = s32[] parameter(1)
  %row = f32[1,100]{1,0} fusion(%same, %i), kind=kLoop, calls=%fused
  %m = f32[100,100]{1,0} parameter(3)
  %times = f32[1,100]{1,0} dot(%row, %m), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %out = f32[12,100]{1,0} parameter(2)
  ROOT %placed = f32[12,100]{1,0} fusion(%out, %times, %i), kind=kLoop, calls=%stacking
}

ENTRY %main (w: f32[12,100], i: s32[], out: f32[12,100], m: f32[100,100]) -> f32[12,100] {
  %w = f32[12,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %out = f32[12,100]{1,0} parameter(2)
  %m = f32[100,100]{1,0} parameter(3)
  ROOT %z = f32[12,100]{1,0} fusion(%w, %i, %out, %m), kind=kOutput, calls=%product
}
"""


def test_a_fusion_inside_a_fusion_moves_what_it_slices():
    """As where a TPU's product takes its operand out of the stack of all blocks, and puts its result into another."""
    index, row, matrix, placed = 4, 400, 40_000, 400
    assert Module(SUM_AND_SLICE + NESTED).memory_bytes() == index + row + matrix + placed


ASYNCHRONOUS = """
%multiplied (q0: bf16[8,16], q1: bf16[16,32]) -> bf16[8,32] {
  %q0 = bf16[8,16]{1,0} parameter(0)
  %q1 = bf16[16,32]{1,0} parameter(1)
  ROOT %dot = bf16[8,32]{1,0} dot(%q0, %q1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(DinoVit)/Block/mlp/dot_general"}
}

%reduced (r: f32[100]) -> f32[100] {
  %r = f32[100]{0} parameter(0)
  ROOT %all = f32[100]{0} all-reduce(%r), replica_groups={{0,1}}, to_apply=%sum
}

ENTRY %main (stack: f32[12,100], i: s32[], x: bf16[8,16], w: bf16[16,32], q: bf16[2,160,3,64], k: bf16[2,200,3,64]) -> f32[100] {
  %stack = f32[12,100]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = bf16[8,16]{1,0} parameter(2)
  %w = bf16[16,32]{1,0} parameter(3)
  %q = bf16[2,160,3,64]{3,2,1,0} parameter(4)
  %k = bf16[2,200,3,64]{3,2,1,0} parameter(5)
  %begun = ((f32[12,100]{1,0}, s32[]), f32[100]{0}, u32[]) fusion-start(%stack, %i), kind=kLoop, calls=%fused
  %row = f32[100]{0} fusion-done(%begun)
  %product = bf16[8,32]{1,0} fusion(%x, %w), kind=kCustom, calls=%multiplied
  %attended = (bf16[2,160,3,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(step)/jvp(PretrainModel)/decoder/Block/attn/dot_product_attention_fwd"}
  %sent = ((f32[100]{0}), f32[100]{0}) async-start(%row), calls=%reduced
  ROOT %z = f32[100]{0} async-done(%sent)
}
"""  # noqa: E501


def test_what_runs_beside_others_is_seen():
    """A sliced stack in an asynchronous fusion counts as its slice; a wrapped collective is found."""
    module = Module(SUM_AND_SLICE + ASYNCHRONOUS)
    (found,) = module.collectives({"data": 2})
    assert (found.kind, found.num_bytes, found.axes) == ("all-reduce", 400, ("data",))
    kernels = {kernel.name: kernel for kernel in kernels_of(module)}
    assert kernels["begun"].num_bytes == 400 + 400 + 4 and kernels["begun"].kind == "memory"
    product, attention = kernels["product"], kernels["attended"]
    assert (product.flops, product.kind, product.part) == (2 * 8 * 16 * 32, "products", "teacher")
    assert (attention.flops, attention.part) == (4 * 2 * 3 * 160 * 200 * 64, "decoder forward")
    rates = Rates(products=1e6, fp8_products=2e6, attention=1e9, bandwidth=1e6, launch=1.0)
    assert product.seconds(rates) == pytest.approx(1 + product.flops / 1e6)
    assert kernels["begun"].seconds(rates) == pytest.approx(1 + 804 / 1e6)
    rows = by_part(list(kernels.values()), rates)
    assert sum(row["seconds"] for row in rows) == pytest.approx(sum(by_kind(list(kernels.values()), rates).values()))


@pytest.mark.parametrize(
    "groups,axes",
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups={{0,1,2,3,4,5,6,7}}", ("data", "fsdp")),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp")),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, use", ("fsdp",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}, use", ("data", "fsdp")),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_0'}, use", ("fsdp",)),
        ("source_target_pairs={{0,4},{4,0}}", ("data",)),
    ],
)
def test_mesh_axes_of_replica_groups(groups, axes):
    assert group_axes(groups, {"data": 2, "fsdp": 4}) == axes


@pytest.mark.parametrize("total,warns", [(15 * 2**30, False), (17 * 2**30, True)])
def test_buffers_above_the_chips_memory_are_said(total, warns):
    sizes = {"memory_bytes": {"total": total}, "chip_memory_bytes": 2**34, "peak_memory_bytes": 2**33, "chip": "v5e"}
    lines = "\n".join(planning_text.memory_lines(sizes | {"activation_bytes": 2**31}))
    assert ("only 8.0 GiB are in use at once" in lines) == warns and "backward pass: 2.000" in lines


def test_search_finds_the_largest_batch_in_few_compiles():
    def attempt(clips: int) -> Compiled:
        size = 2_000 + 100 * clips
        if size > 10_000:
            raise DoesNotFit(size, 10_000)
        return Compiled({"params": 1_500, "temporaries": size - 1_500}, [], 0)

    for first in (20, 64, 200):
        try:
            outcome = attempt(first)
        except DoesNotFit as shortage:
            outcome = shortage
        found = largest_batch(attempt, (first, outcome), 10_000, compiles=4)
        assert found.clips == 80 and found.compiles <= 4, (first, found)
    lines = advice(20_000, 10_000, build_task(configs.load_config("configs/k400.py")), 64)
    assert "--batch_per_chip=24" in lines[0] and any("compute.remat" in line for line in lines)


def test_network_model():
    chip = find_chip("TPU v5 lite")
    gradients = Collective("all-reduce", 2 * 96_000_000, 1, ("data",), "")
    inside, outside = (collective_seconds(chip, gradients, n) for n in (256, 4096))
    assert inside == pytest.approx(2 * 192e6 / 1.8e11 + 2e-6 * 2 * 8 + 5e-6)
    assert outside == pytest.approx(inside + 2 * 192e6 / 800e9 + 60e-6)
    assert find_chip("cpu") is None


def test_the_step_on_eight_devices(devices):
    """Prints the table of what crosses devices, and holds it to the budget."""
    values = {"batch_size": "8", "model.image_size": "16"}
    config = configs.apply_overrides(configs.load_config("configs/demo.py"), values)
    program = plan_program(config, 1000)
    compiled = compile_program(program)
    numbers = forecast(program, compiled, find_chip("TPU v5e"))
    result = numbers | {"config": "demo", "topology": None, "device_kind": "cpu", "plan": [], "fits": True}
    print(planning_text.report(result))
    prototypes, params = config.objective.num_prototypes, program.plan.num_params
    # XLA joins the first and last K-vectors with other all-reduces; those of the sweeps stand alone.
    sinkhorn = [c for c in compiled.collectives if c.num_bytes <= 2 * 4 * prototypes]
    assert 10 <= sum(c.times for c in sinkhorn) <= 2 * config.objective.num_iters, sinkhorn
    total = sum(c.num_bytes * c.times for c in compiled.collectives)
    assert total <= 4 * params + 2 * 4 * 4 * prototypes * (config.objective.num_iters + 2), "fp32 gradients, K-vectors"
    assert {c.axes for c in compiled.collectives} == {("data",)}
    # Visible tubes only, hidden queries only: fewer products than the published method, never half of them.
    assert 0.5 < numbers["flops_per_chip"] / numbers["model_flops_per_chip"] < 1.1
    assert numbers["memory_bytes"]["params"] == 4 * params


def test_traffic_of_the_model():
    """Of ViT-B with DINO-B in GB per clip, at 32 clips per chip, by hand: 24 score reads and writes of 2 bytes, ..."""
    values = {"batch_size": "32", "max_batch_per_device": "32"}
    config = configs.apply_overrides(configs.load_config("configs/k400.py:size=B,target=dino"), values)
    program = plan_program(config, 1000)
    few, many = (program.task.traffic(clips, program.plan.num_params) for clips in (8, 32))
    assert few["sinkhorn"] == many["sinkhorn"] == 2 * (2 + 2 * 10 + 2 + 4) * 1408 * 3000
    assert few["optimizer"] == 4 * many["optimizer"] == 38 * program.plan.num_params / 8
    tokens = 8 * 197
    blocks = 12 * (72 * tokens * 768 + 24 * 768**2 / 32)
    assert many["teacher"] == blocks + 2 * tokens * (768 + 768)
    assert sum(many.values()) == pytest.approx(2.31e9, rel=0.01) and many["projection"] == 0
    mlp = configs.apply_overrides(configs.load_config("configs/k400.py:size=B"), values)
    assert build_task(mlp).traffic(32, 1)["projection"] > 0


def test_kernels_are_counted_by_their_own_account():
    q, k = (jax.ShapeDtypeStruct((2, n, 4, 64), "bfloat16") for n in (300, 500))

    def loss(q, k, v):
        return attend_on_tpu(q, k, v).astype("float32").sum()

    product = 2 * 2 * 300 * 500 * 256
    assert count_flops(jax.make_jaxpr(loss)(q, k, k).jaxpr, 1) == 2 * product
    assert count_flops(jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(q, k, k).jaxpr, 1) == 7 * product


@pytest.fixture
def planned(capsys):
    def call(*words: str) -> tuple[int, str, str]:
        code = plan.main(["plan", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    for name in ("topology", "batch_per_chip"):
        plan.FLAGS[name].value = None
    plan.FLAGS["json"].value = False


def test_what_cannot_be_planned_is_said_before_compiling(planned):
    code, _, err = planned("--config=configs/k400.py", "--config.mesh.fsdp=3")
    assert code == 1 and "does not make 8 devices" in err and "the nearest is data=4 x fsdp=2" in err
    code, _, err = planned("--config=configs/k400.py", "--config.batch_size=100")
    assert code == 1 and "does not divide over 8 devices: use one of [96, 104]" in err


def test_impossible_gpus_are_refused_in_a_sentence(planned):
    for topology, hint in (
        ("h100:0", "a host has 1 to 8 GPUs"),
        ("h100:16", "such as h100:2x8"),
        ("h100:2x9", "such as h100:3x8"),
        ("h100", "h100:8"),
        ("h100:4x", "h100:HOSTSxGPUS"),
        ("b300:8", "GPUs are h100:N and h200:N"),
    ):
        code, _, err = planned("--config=configs/k400.py", f"--topology={topology}")
        assert code == 1 and hint in err and err.count("\n") == 1, err


def test_a_missing_gpu_compiler_is_said_with_the_line_that_installs_it(planned, monkeypatch):
    monkeypatch.setattr("sigma_jax.runtime.topologies.CUDA_PLUGIN", "jax_plugins_that_are_not_there")
    code, _, err = planned("--config=configs/k400.py", "--topology=h100:8")
    assert code == 1 and f'pip install --no-deps "jax-cuda13-plugin=={jax.__version__}"' in err, err


def test_a_step_that_does_not_fit_a_gpu_is_refused(devices):
    """XLA compiles whatever it is given for a GPU, so the buffers are added up."""
    values = {"batch_size": "8", "model.image_size": "16"}
    program = plan_program(configs.apply_overrides(configs.load_config("configs/demo.py"), values), 1000)
    card = find_chip("NVIDIA H100 80GB HBM3")
    fitting = compile_program(program, card)
    assert fitting.kernels and fitting.total < usable_memory(card) == 0.9 * card.memory
    numbers = forecast(program, fitting, card)
    result = numbers | {"config": "demo", "topology": "h100:8", "device_kind": "H100", "plan": [], "fits": True}
    result["versus"] = numbers | {"overrides": {"batch_size": "8"}}
    lines = planning_text.report(result)
    assert "forecast by kernels" in lines and "decoder backward" in lines and "+0.00" in lines and "(x1.000)" in lines
    twice = dataclasses.replace(program, plan=dataclasses.replace(program.plan, repeats=2))  # two clips of each video
    result |= forecast(twice, fitting, card)
    assert result["clips_per_s"] == 2 * result["videos_per_s"]
    assert f"{result['clips_per_s']:,.0f} clips/s of {result['videos_per_s']:,.0f} videos/s" in planning_text.report(
        result
    )
    with pytest.raises(DoesNotFit) as shortage:
        compile_program(program, card._replace(memory=fitting.total))
    assert shortage.value.needed == fitting.total


needs_cuda_compiler = pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None or importlib.util.find_spec("jax_plugins.xla_cuda13") is None,
    reason="JAX's CUDA plugin is not installed (launch/PODS.md)",
)


@needs_cuda_compiler
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_plan_of_a_step_for_gpus_that_are_not_here(planned):
    """Small shapes: only gradients and K-vectors cross the GPUs."""
    words = ["--config=configs/k400.py:size=S", "--topology=h100:2", "--batch_per_chip=2", "--json"]
    code, out, err = planned(*words, "--config.model.image_size=64")
    assert code == 0, err
    result = json.loads(out)
    assert result["chips"] == 2 and result["chip"] == "H100" and result["kinds"]["attention"] > 0
    assert {row["part"] for row in result["parts"]} >= {"encoder forward", "decoder backward", "objective and targets"}
    assert {c["kind"] for c in result["collectives"]} == {"all-reduce"}
    assert len(topology_devices("h200:2x4")) == 8


@needs_cuda_compiler
def test_no_wide_matrix_of_the_scores_is_stored_on_a_gpu():
    """The objective and its gradients at the size of a real batch, as compiled for an H100.

    On a GPU that is there, the compiler times other kernels; step_compilation forbids those that store such a matrix.
    """
    place = jax.sharding.SingleDeviceSharding(topology_devices("h100:1")[0])
    shapes = [jax.ShapeDtypeStruct((n, 768), "float32", sharding=place) for n in (56320, 56320, 3000)]

    def loss(predictions, projections, prototypes):
        return symmetric_loss(predictions, projections, prototypes, epsilon=0.05, sweeps=platform_sweeps("gpu"))[0]

    stored = outside_of_fusions(compiled_for_a_gpu(jax.grad(loss, (0, 2)), *shapes))
    assert "s16[56320,3000]" in stored and "f32[56320,3000]" not in stored


def two_blocks(heads: int, tokens: tuple[int, int], dtype: str, bias: str):
    """(block, parameters of `dtype`, tokens): shapes on a GPU that is not here."""
    place = jax.sharding.SingleDeviceSharding(topology_devices("h100:1")[0])
    block, width = Block(heads, qkv_bias=bias, dtype=jnp.bfloat16, backend="cudnn"), 64 * heads
    shapes = jax.eval_shape(partial(init_stack, block=block, depth=2, width=width), jax.random.key(0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place), shapes)
    return block, shapes, jax.ShapeDtypeStruct((*tokens, width), jnp.bfloat16, sharding=place)


def compiled_for_a_gpu(function, *shapes, fp8=False) -> str:
    return jax.jit(function, compiler_options=step_compilation("gpu", fp8)).lower(*shapes).compile().as_text()


@needs_cuda_compiler
@pytest.mark.parametrize("fp8", [False, True])
def test_a_teachers_products_add_biases_and_residuals_themselves(fp8):
    """Six products a block, all of them the library's; in 8 bits where asked for. The size is that of 320 frames."""
    block, params, x = two_blocks(12, (320, 197), "bfloat16", "qkv")
    run = Fp8Block(block) if fp8 else block
    text = compiled_for_a_gpu(lambda p, x: run_stack(run, p, x, unroll=0)[0], params, x, fp8=fp8)
    products = re.findall(r'custom_call_target="(__cublas[^"]*)"', text)
    assert products == 12 * ["__cublas$lt$matmul$f8" if fp8 else "__cublas$lt$matmul"] and "gemm_fusion" not in text
    assert text.count('"epilogue":"BIAS"') >= 6 and (fp8 or text.count('"beta":1') == 4)


@needs_cuda_compiler
def test_a_trained_block_keeps_nothing_in_fp32_on_a_gpu():
    """Neither a part of GELU for the backward pass, nor a norm's input times its gradient. The encoder's size."""
    block, params, x = two_blocks(12, (40, 160), "float32", "qv")

    def gradients(params, x, gradient):
        out, pullback = jax.vjp(lambda p, x: run_stack(block, p, x, unroll=0)[0], params, x)
        return out, pullback(gradient)

    stored = outside_of_fusions(compiled_for_a_gpu(gradients, params, x, x))
    assert "bf16[40,160,3072]" in stored and not re.search(r"f32\[(40,160|6400),(768|3072)\]", stored)


def outside_of_fusions(text: str) -> str:
    """Results of instructions that are written to memory: those of the computations that run, not of fused ones."""
    module = Module(text)
    return "\n".join(i.shape for name, _ in module.runs() for i in module.computations[name].values())


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='libtpu is not installed (pip install -e ".[tpu]")'
)


@pytest.mark.parametrize(
    "given,nearest",
    [("v5e:3x5", "v5e:4x4"), ("v5e:4x4x4", "v5e:8x8"), ("v5e", "v5e:2x2"), ("v6:16x16", "v6e:16x16")]
    + [("v5litepod-256", "v5e:16x16"), ("v6e-256", "v6e:16x16"), ("v5p-1024", "v5p:8x8x8"), ("v4-128", "v4:4x4x4")],
)
def test_the_nearest_topology_is_named(given, nearest):
    assert nearest_topology(given) == nearest


@needs_libtpu
def test_unknown_topology_is_an_error(planned):
    code, _, err = planned("--config=configs/k400.py", "--topology=v5litepod-256")
    assert code == 1 and "unknown topology 'v5litepod-256'" in err and "the nearest is 'v5e:16x16'" in err, err
    code, _, err = planned("--config=configs/k400.py", "--topology=v5e:32x32")
    assert code == 1 and "1024 chips, a slice of TPU v5e 256 at most: take v5e:16x16 with --slices=4" in err, err


@needs_libtpu
@pytest.mark.parametrize(
    "topology,chip,chips",
    [("v4:2x2x1", "TPU v4", 4), ("v4:4x4x8", "TPU v4", 128), ("v5e:4x4", "TPU v5e", 16)]
    + [("v5p:2x2x4", "TPU v5p", 16), ("v6e:16x16", "TPU v6e", 256)],
)
def test_a_chip_of_every_generation_is_one_device(topology, chip, chips):
    devices = topology_devices(topology)
    assert len(devices) == len({tuple(device.coords) for device in devices}) == chips
    assert make_mesh(fsdp=2, devices=devices).shape == {"data": chips // 2, "fsdp": 2}
    assert find_chip(devices[0].device_kind).name == chip


@needs_libtpu
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("topology,chips", [("v5e:4x4", 16), ("v5e:16x16", 256)])
def test_plan_of_k400_for_chips_that_are_not_here(planned, topology, chips):
    """Prints the plan and the time it took; holds memory, traffic and collectives to the goals."""
    started = time.process_time()
    code, out, err = planned(
        "--config=configs/k400.py:size=B,target=dino", f"--topology={topology}", "--batch_per_chip=32", "--json"
    )
    seconds = time.process_time() - started
    assert code == 0, err
    result = json.loads(out)
    print(planning_text.report(result) + f"\n{seconds:.0f} processor seconds")
    assert result["chips"] == chips and result["memory_bytes"]["total"] < 0.98 * 16 * 2**30
    assert result["memory_traffic_per_chip"] <= 1.5 * result["model_traffic_per_chip"]
    collectives, params = result["collectives"], result["memory_bytes"]["params"] // 4
    # Gradients in bf16 but for the prototypes', Sinkhorn's K-vectors, scalars: nothing else, so nothing of the batch.
    gradients = sum(c["num_bytes"] * c["times"] for c in collectives if c["num_bytes"] > 24_000)
    assert gradients <= 1.1 * 2 * params
    small = [c for c in collectives if c["num_bytes"] <= 24_000]
    assert sum(c["times"] for c in small if "shard_map" in c["source"]) <= 20
    assert sum(c["num_bytes"] * c["times"] for c in small) < 1e6
    assert {c["kind"] for c in collectives} == {"all-reduce"}
    assert result["efficiency_at_4096_chips"] >= 0.95
    assert jax.default_backend() == "cpu"
