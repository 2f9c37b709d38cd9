"""The published pre-training step in PyTorch, to be compared with ours; needs PyTorch.

    python -m sigma_jax.tools.benchmarks.peer_step --mode=amp [--target=dino|mlp] [--size=B] [--batch=40]
    python -m sigma_jax.tools.benchmarks.peer_step --golden tests/goldens/pretrain_dino_swav.npz

Modes
    shipped   student under fp16 autocast with a gradient scaler, eager attention, the image teacher outside autocast
              (fp32, no TF32), boolean masks, a synchronisation every step: what the authors' program does
    amp       the same with the teacher under autocast
    fp32      the same without autocast: for CPUs, whose 16-bit arithmetic is slow
    best      bf16, the forward pass under torch.compile, fused attention (cuDNN first), fused AdamW, no synchronisation
    parts     Sinkhorn and cross-entropy of one side alone, and the teacher in fp32 and in 16 bits

Prints a line of JSON with "median_s", processor seconds and peak memory among others. The batch lies on the device, as
in our own benchmark. --golden compares losses and gradient norms over the recorded updates, in fp32 on any device.
--smoke: tiny sizes.
"""

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = {  # encoder and decoder: width, depth, heads
    "tiny": ((64, 2, 4), (48, 2, 3)),
    "S": ((384, 12, 6), (192, 4, 3)),
    "B": ((768, 12, 12), (384, 4, 6)),
    "L": ((1024, 24, 16), (512, 4, 8)),
}
TEACHERS = {"tiny": (64, 2, 4)}
TEACHER = (768, 12, 12)  # DINO ViT-B/16
GOLDEN_LIMIT = 5e-5
MODES = ("shipped", "amp", "fp32", "best", "parts")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", default="shipped", choices=MODES)
    parser.add_argument("--target", default="dino", choices=["dino", "mlp"])
    parser.add_argument("--size", default="B", choices=list(SIZES))
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--golden", nargs="*", help="files of tests/goldens")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for a CPU")
    args = parser.parse_args(argv)
    args.image, args.prototypes = 224, 3000
    if args.smoke:
        args.size, args.image, args.prototypes, args.batch, args.repeats, args.warmup = "tiny", 64, 64, 2, 3, 1
    return args


class Peer:
    """Model, teacher, mask and video of a mode, on the GPU where there is one."""

    def __init__(self, args: argparse.Namespace, fused: bool):
        import torch

        from sigma_jax.tools.benchmarks import peer_model

        torch.manual_seed(0)
        self.torch, self.parts = torch, peer_model
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        teacher = TEACHERS.get(args.size, TEACHER)
        out = 256 if args.target == "mlp" else teacher[0]
        sizes = peer_model.PeerSizes(*SIZES[args.size], image=args.image, out=out, prototypes=args.prototypes)
        self.model = peer_model.Sigma(sizes, args.target == "mlp", fused).to(self.device)
        self.teacher = None
        if args.target == "dino":
            self.teacher = peer_model.Teacher(*teacher, args.image, sizes.patch).to(self.device).eval()
            self.teacher.requires_grad_(False)
        per_step = sizes.tubes // peer_model.STEPS
        order = torch.argsort(torch.rand(args.batch, per_step, generator=torch.Generator().manual_seed(0)), dim=1)
        mask = torch.zeros(args.batch, per_step, dtype=torch.bool).scatter_(1, order[:, : int(0.9 * per_step)], True)
        self.mask = mask.repeat(1, peer_model.STEPS).to(self.device)
        self.video = torch.randn(args.batch, 3, 16, args.image, args.image).to(self.device)

    def images(self) -> Any:
        """What the teacher sees: every second frame."""
        return self.video.permute(0, 2, 1, 3, 4)[:, ::2].flatten(0, 1)

    def autocast(self, half: Any, enabled: bool = True) -> contextlib.AbstractContextManager:
        return self.torch.autocast(self.device, dtype=half, enabled=enabled)

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def machine(self) -> dict[str, Any]:
        cuda, torch = self.device == "cuda", self.torch
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
        name = torch.cuda.get_device_name() if cuda else "cpu"
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"peak_rss_mb": own, "peak_device_mb": peak, "device": name, "versions": f"torch {torch.__version__}"}


def build_step(peer: Peer, mode: str, batch: int) -> Callable[[], Any]:
    """A function that makes one update of `mode` and returns its loss."""
    torch, model, best = peer.torch, peer.model, mode == "best"
    half = torch.bfloat16 if best or peer.device == "cpu" else torch.float16
    picks = (peer.parts.gather_picks if best else peer.parts.boolean_picks)(peer.mask)
    optimizer = torch.optim.AdamW(
        peer.parts.parameter_groups(model), lr=1.5e-4 * batch / 256, betas=(0.9, 0.95), eps=1e-8, fused=best or None
    )
    scaler = torch.amp.GradScaler(peer.device, enabled=not best and peer.device == "cuda")
    parameters = list(model.parameters())

    def loss_of(video):
        features = None
        if peer.teacher is not None:
            with torch.no_grad(), peer.autocast(half, mode not in ("shipped", "fp32")):
                features = peer.teacher(peer.images()).float()
        labels = model.labels(video, features, picks[1])
        with peer.autocast(half, mode != "fp32"):
            return model(video, labels, *picks)

    forward = torch.compile(loss_of) if best and peer.device == "cuda" else loss_of

    def step():
        model.constrain()
        loss = forward(peer.video)
        if not best and not np.isfinite(loss.item()):  # the authors look at it every step
            raise SystemExit(f"{mode}: the loss is {loss.item()}")
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.stack([torch.linalg.vector_norm(p.grad) for p in parameters if p.grad is not None]).norm()
        scaler.step(optimizer)
        scaler.update()
        if not best:
            peer.wait()
        return loss.detach()

    return step


def attention_kernels(peer: Peer) -> contextlib.AbstractContextManager:
    """Fused attention, cuDNN's first, where there is a GPU."""
    if peer.device != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def measure_step(args: argparse.Namespace) -> dict[str, Any]:
    """The row of a mode; one step is in flight while the next is dispatched, except where the mode itself waits."""
    peer = Peer(args, fused=args.mode == "best")
    step = build_step(peer, args.mode, args.batch)
    with attention_kernels(peer) if args.mode == "best" else contextlib.nullcontext():
        begin = time.perf_counter()
        step()
        peer.wait()
        first = time.perf_counter() - begin
        seconds, spent = timed(step, peer, args)
    low, median, high = np.quantile(seconds, [0.1, 0.5, 0.9]).tolist()
    row = {
        "mode": args.mode,
        "target": args.target,
        "batch": args.batch,
        "median_s": median,
        "p10_s": low,
        "p90_s": high,
        "cpu_s": spent,
    }
    return row | {"first_step_s": first, "clips_per_s": args.batch / median, **peer.machine()}


def timed(call: Callable[[], Any], peer: Peer, args: argparse.Namespace) -> tuple[list[float], float]:
    """Seconds of each repetition, by the device's own clock where it has one; processor seconds of one on average."""
    for _ in range(args.warmup):
        call()
    peer.wait()
    marks, spent = [], time.process_time()
    for _ in range(args.repeats + 1):
        marks.append(peer.torch.cuda.Event(enable_timing=True) if peer.device == "cuda" else time.perf_counter())
        if peer.device == "cuda":
            marks[-1].record()
        call()
    peer.wait()
    spent = (time.process_time() - spent) / (args.repeats + 1)
    pairs = zip(marks, marks[1:], strict=False)
    return [a.elapsed_time(b) / 1e3 if peer.device == "cuda" else b - a for a, b in pairs], spent


def measure_parts(args: argparse.Namespace) -> dict[str, Any]:
    """Sinkhorn and cross-entropy of one side (median_s), and the teacher."""
    peer = Peer(args, fused=False)
    torch, model = peer.torch, peer.model
    half = torch.float16 if peer.device == "cuda" else torch.bfloat16
    tokens = args.batch * int(peer.mask[0].sum())
    scores = torch.rand(tokens, args.prototypes, device=peer.device, dtype=half) * 2 - 1
    labels = torch.randint(0, args.prototypes, (tokens,), device=peer.device)

    def sinkhorn():
        return peer.parts.balance(scores, model.epsilon, model.iterations, True).argmax(dim=-1)

    def objective():
        with peer.autocast(half):
            return sinkhorn(), model.cross_entropy(scores, labels, args.batch)

    def teacher(enabled):
        with peer.autocast(half, enabled):
            return peer.teacher(peer.images())

    with torch.no_grad():
        found = {"median_s": objective, "sinkhorn_s": sinkhorn}
        if peer.teacher is not None:
            found |= {"teacher_fp32_s": lambda: teacher(False), "teacher_16bit_s": lambda: teacher(True)}
        row = {name: statistics.median(timed(call, peer, args)[0]) for name, call in found.items()}
    return {"mode": "parts", "batch": args.batch, "tokens": tokens, **row, **peer.machine()}


def check_golden(path: str) -> dict[str, Any]:
    """Losses and gradient norms over the recorded updates against the authors' own numbers, for both forms."""
    import torch

    from sigma_jax.tools.benchmarks import peer_model as parts

    arrays = dict(np.load(path))
    told = json.loads(str(arrays["config_json"]))
    names = ("ed", "edepth", "eh"), ("dd", "ddepth", "dh")
    stacks = (tuple(told[name] for name in three) for three in names)
    others = (told[name] for name in ("img", "patch", "out", "K"))
    sizes = parts.PeerSizes(*stacks, *others, head=tuple(told.get("head") or ()))
    worst = 0.0
    for fused in (False, True):
        model = parts.Sigma(sizes, told["target"] == "mlp", fused, told["eps"])
        model.load_state_dict(
            {k[6:]: torch.tensor(v) for k, v in arrays.items() if k.startswith("param:")}, strict=True
        )
        groups = parts.parameter_groups(model, told["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=told["lr"], betas=tuple(told["betas"]), eps=told["adam_eps"])
        video, mask = torch.tensor(arrays["video"]), torch.tensor(arrays["mask"])
        features = torch.tensor(arrays["feature"]) if "feature" in arrays else None
        picks = (parts.gather_picks if fused else parts.boolean_picks)(mask)
        for loss_told, norm_told in zip(arrays["losses"], arrays["grad_norms"], strict=True):
            model.constrain()
            loss = model(video, model.labels(video, features, picks[1]), *picks)
            optimizer.zero_grad()
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
            worst = max(worst, abs(loss.item() - float(loss_told)), abs(norm.item() - float(norm_told)))
            optimizer.step()
    return {"golden": path, "worst_deviation": worst, "ok": bool(worst < GOLDEN_LIMIT)}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.golden:
        rows = [check_golden(path) for path in args.golden]
    else:
        rows = [measure_parts(args) if args.mode == "parts" else measure_step(args)]
    print("\n".join(json.dumps(row) for row in rows))
    return int(not all(row.get("ok", True) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
