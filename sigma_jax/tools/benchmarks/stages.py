"""The stages of `tools.measure` on one GPU, the most important first."""

import dataclasses
import sys

PYTHON = sys.executable
BENCH = ("-m", "sigma_jax.tools.bench")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A program that prints lines of JSON, each with "median_s".

    Attributes:
    words: arguments of the Python interpreter; {folder} is where everything lies, {data} where the shards are.
      needs: seconds that must be left of the budget to begin.
      limit: seconds after which it is ended.
      beside: runs at the same time as neighbouring stages with this mark, since nothing is timed (compiling, writing
        shards).
      peer: run by the interpreter that has PyTorch.
      environment: variables added to the environment.
    """

    name: str
    words: tuple[str, ...]
    needs: int = 25
    limit: int = 90
    beside: bool = False
    peer: bool = False
    environment: tuple[tuple[str, str], ...] = ()


class Sizes:
    """Flags of the stages, of the published sizes or, for a CPU, tiny ones."""

    def __init__(self, smoke: bool):
        tiny = (
            "--config.model.image_size=32",
            "--config.model.tube_size=(2,8,8)",
            "--config.objective.num_prototypes=64",
        )
        short = ("--platform=cpu", "--repeats=3", "--warmup=1")
        size, teacher = ("size=tiny,", ",teacher=tiny") if smoke else ("", "")
        more = (*tiny, *short) if smoke else ()
        batch = 4 if smoke else 40
        self.dino = (f"--config=configs/k400.py:{size}target=dino{teacher}", f"--batch={batch}", *more)
        self.mlp = (f"--config=configs/k400.py:{size}target=mlp", f"--batch={batch}", *more)
        large = f"size=tiny,target=dino{teacher}" if smoke else "size=L,target=dino"
        self.large = (f"--config=configs/k400.py:{large}", f"--batch={batch}", *more)
        self.many = (self.dino[0], f"--batch={8 if smoke else 128}", *more)
        self.scores = ("--tokens=512", "--prototypes=64", *short) if smoke else ("--tokens=56320", "--prototypes=3000")
        self.attention = ("2,160,3,64",) if smoke else ("40,1568,6,64", "40,160,12,64")
        self.fast = "lean" if smoke else "cudnn"
        self.short = short if smoke else ()
        self.peer = ("--smoke",) if smoke else ()
        self.videos = ("--videos=8", "--frames=70", "--workers=2") if smoke else ()
        self.feed = ("--workers=0", "--repeats=2") if smoke else ("--workers=16", "--repeats=60")
        self.train = (self.dino[0], f"--config.batch_size={batch}", f"--steps={8 if smoke else 40}")
        if smoke:
            self.train += ("--platform=cpu", "--config.data.num_workers=0", *tiny)


def stages(smoke: bool) -> list[Stage]:
    """All stages in the order in which they run."""
    sizes = Sizes(smoke)
    peer, data, trace = ("-m", "sigma_jax.tools.benchmarks.peer_step"), ("--data_dir={data}",), "--trace={folder}/trace"
    hlo = "--hlo={folder}/step.hlo.gz"
    graphs = (("XLA_FLAGS", "--xla_gpu_enable_command_buffer="),) if not smoke else ()

    def step(name: str, flags: tuple[str, ...], *more: str, **limits) -> Stage:
        return Stage(name, (*BENCH, "step", *flags, *more, "--json"), **limits)

    def compiled(name: str, flags: tuple[str, ...], *more: str, **limits) -> Stage:
        return step(name, flags, *more, "--compile_only", needs=60, limit=170, beside=True, **limits)

    gpu = (("JAX_PLATFORMS", "cpu" if smoke else "cuda"),)
    scanned = "--config.compute.unroll=1"
    shards = ("-m", "sigma_jax.tools.benchmarks.jpeg_shards", "--out={data}", *sizes.videos)
    attention = [
        Stage(
            f"attention_{backend}_{shape.replace(',', 'x')}",
            (*BENCH, "attention", f"--shape={shape}", f"--backend={backend}", "--json", *sizes.short),
        )
        for shape in sizes.attention
        for backend in (sizes.fast, "xla")
    ]
    return [
        step("dino_cold", sizes.dino, hlo, needs=40, limit=240),
        Stage("peer_amp_dino", (*peer, "--mode=amp", *sizes.peer), 30, peer=True),
        Stage("peer_shipped_dino", (*peer, "--mode=shipped", *sizes.peer), 30, peer=True),
        Stage("shards", shards, 60, 120, beside=True),
        compiled("compile_mlp", sizes.mlp),
        compiled("compile_large", sizes.large),
        compiled("compile_scanned", sizes.dino, scanned),
        step("mlp", sizes.mlp),
        Stage("peer_best_dino", (*peer, "--mode=best", *sizes.peer), 60, 170, peer=True),
        Stage("objective", (*BENCH, "objective", *sizes.scores, "--json"), limit=60),
        step("dino_warm", sizes.dino, trace),
        Stage("profile", (*BENCH, "profile", trace, hlo, "--json"), 10),
        step("large", sizes.large),
        Stage("end_to_end", (*BENCH, "end_to_end", *data, *sizes.dino, *sizes.feed, "--json"), 45),
        Stage("tests", ("-m", "pytest", "-q", "-m", "gpu", "tests"), 60, 200, environment=gpu),
        Stage("peer_amp_mlp", (*peer, "--mode=amp", "--target=mlp", *sizes.peer), peer=True),
        Stage("peer_parts", (*peer, "--mode=parts", *sizes.peer), 30, peer=True),
        step("scanned", sizes.dino, scanned),
        *attention,
        Stage("agreement", (*BENCH, "agreement", *sizes.scores, "--json"), 60, 240),
        step("many_clips", sizes.many, needs=60, limit=150),
        step("xla_attention", sizes.dino, "--config.compute.attention=xla", needs=60, limit=150),
        step("without_graphs", sizes.dino, needs=60, limit=150, environment=graphs),
        Stage("train", ("-m", "sigma_jax.tools.benchmarks.training", "{data}", "{folder}/run", *sizes.train), 70, 180),
        Stage("compile", (*BENCH, "compile", *sizes.dino, "--json"), 90, 200),
    ]
