"""The published model, its teacher and its objective in PyTorch, to compare our speed with. Needs PyTorch.

Written from the paper's description; `peer_step --golden` shows that its losses and gradient norms over three updates
are the authors'. `fused` chooses fused attention and cross-entropy instead of the published operations.

Letters: B clips, N tubes, M hidden, D width, K prototypes, E target width.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STEPS = 8  # tubes along time
Pick = Callable[[torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class PeerSizes:
    """Encoder and decoder, each as (width, depth, heads), and what is predicted."""

    encoder: tuple[int, int, int]
    decoder: tuple[int, int, int]
    image: int = 224
    patch: int = 16
    out: int = 256
    prototypes: int = 3000
    head: tuple[int, ...] = (1024, 1024, 512)

    @property
    def tubes(self) -> int:
        return STEPS * (self.image // self.patch) ** 2


def sincos(tokens: int, width: int) -> torch.Tensor:
    """Fixed positions over the flattened index: sine in even columns, cosine in odd ones; [1 N D]."""
    column = np.arange(width)
    angle = np.arange(tokens)[:, None] / np.power(10000.0, 2 * (column // 2) / width)[None]
    return torch.tensor(np.where(column % 2 == 0, np.sin(angle), np.cos(angle)), dtype=torch.float32)[None]


class Attention(nn.Module):
    """Self-attention; one bias for q, k and v, or separate ones for q and v."""

    def __init__(self, width: int, heads: int, joint_bias: bool, fused: bool):
        super().__init__()
        self.heads, self.fused, self.joint_bias = heads, fused, joint_bias
        self.qkv = nn.Linear(width, 3 * width, bias=joint_bias)
        if not joint_bias:
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clips, tokens, width = x.shape
        bias = self.qkv.bias
        if not self.joint_bias:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias, requires_grad=False), self.v_bias])
        parts = F.linear(x, self.qkv.weight, bias).reshape(clips, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        if self.fused:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).reshape(clips, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, joint_bias: bool, fused: bool):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads, joint_bias, fused), Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Embed(nn.Module):
    """A convolution whose stride is its kernel, as rows of tokens."""

    def __init__(self, conv: nn.Module):
        super().__init__()
        self.proj = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self, sizes: PeerSizes, fused: bool):
        super().__init__()
        (width, depth, heads), kernel = sizes.encoder, (2, sizes.patch, sizes.patch)
        self.patch_embed = Embed(nn.Conv3d(3, width, kernel, kernel))
        self.blocks = nn.ModuleList(Block(width, heads, False, fused) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("positions", sincos(sizes.tubes, width), persistent=False)

    def forward(self, video: torch.Tensor, pick: Pick) -> torch.Tensor:
        x = self.patch_embed(video)
        x = pick(x + self.positions.to(x.dtype))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Decoder(nn.Module):
    def __init__(self, sizes: PeerSizes, fused: bool):
        super().__init__()
        width, depth, heads = sizes.decoder
        self.blocks = nn.ModuleList(Block(width, heads, False, fused) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, sizes.out)

    def forward(self, x: torch.Tensor, hidden: int) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -hidden:]))


class Teacher(nn.Module):
    """A frozen image ViT: patch features after the final norm."""

    def __init__(self, width: int, depth: int, heads: int, image: int, patch: int):
        super().__init__()
        self.patch_embed = Embed(nn.Conv2d(3, width, patch, patch))
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (image // patch) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, True, True) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]


@torch.no_grad()
def balance(scores: torch.Tensor, epsilon: float, iterations: int, in_place: bool) -> torch.Tensor:
    """Sinkhorn as published: the matrix itself is rescaled, prototypes first, then tokens; [n K]."""
    q = torch.exp(scores / epsilon).t()
    q = q.clone() if in_place else q
    divide = torch.Tensor.div_ if in_place else torch.Tensor.div
    q = divide(q, q.sum())
    prototypes, tokens = q.shape
    for _ in range(iterations):
        q = divide(q, q.sum(dim=1, keepdim=True) * prototypes)
        q = divide(q, q.sum(dim=0, keepdim=True) * tokens)
    return (q / q.sum(dim=0, keepdim=True)).t()


def standardized(x: torch.Tensor) -> torch.Tensor:
    """Along the last dimension but one, as targets are."""
    return (x - x.mean(dim=-2, keepdim=True)) / (x.var(dim=-2, unbiased=True, keepdim=True).sqrt() + 1e-6)


class Sigma(nn.Module):
    """Video model, prototypes and, for pixels, the projection network, with the loss."""

    def __init__(self, sizes: PeerSizes, projects: bool, fused: bool = False, epsilon: float = 0.05):
        super().__init__()
        self.sizes, self.projects, self.fused, self.epsilon = sizes, projects, fused, epsilon
        self.iterations, self.temperature = 10, 0.1
        self.encoder = Encoder(sizes, fused)
        width, narrow = sizes.encoder[0], sizes.decoder[0]
        self.encoder_to_decoder = nn.Linear(width, narrow, bias=False)
        self.decoder = Decoder(sizes, fused)
        self.mask_token = nn.Parameter(torch.randn(1, 1, narrow) * 0.01)
        self.prototypes = nn.Parameter(torch.randn(sizes.prototypes, sizes.out))
        self.register_buffer("positions", sincos(sizes.tubes, narrow), persistent=False)
        if projects:
            widths, layers = [6 * sizes.patch**2, *sizes.head, sizes.out], []
            for a, b in zip(widths, widths[1:], strict=False):
                layers += [nn.Linear(a, b), nn.GELU()]
            self.head = nn.Sequential(*layers[:-1])
        for part in (self.encoder.blocks, self.decoder):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    @torch.no_grad()
    def labels(self, video: torch.Tensor, features: torch.Tensor | None, pick_hidden: Pick) -> torch.Tensor:
        """[B M E]: normalised pixels, or normalised teacher features, of the hidden tubes."""
        sizes, clips = self.sizes, len(video)
        if features is not None:
            return pick_hidden(standardized(features.reshape(clips, sizes.tubes, -1)))
        mean, std = video.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None, None]
        side, p = sizes.image // sizes.patch, sizes.patch
        x = (video * std + mean).reshape(clips, 3, STEPS, 2, side, p, side, p).permute(0, 2, 4, 6, 3, 5, 7, 1)
        return pick_hidden(standardized(x.reshape(clips, sizes.tubes, -1, 3)).reshape(clips, sizes.tubes, -1))

    @torch.no_grad()
    def constrain(self) -> None:
        """Prototypes get unit length, before the step and outside the gradient."""
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))

    def assign(self, features: torch.Tensor, prototypes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(scores [n K], assigned prototypes [n])."""
        scores = F.normalize(features.flatten(0, 1), dim=-1) @ prototypes.t()
        return scores, balance(scores, self.epsilon, self.iterations, not self.fused).argmax(dim=-1)

    def forward(self, video: torch.Tensor, labels: torch.Tensor, pick_visible: Pick, pick_hidden: Pick) -> torch.Tensor:
        latents = self.encoder_to_decoder(self.encoder(video, pick_visible))
        table = self.positions.to(latents.dtype).expand(len(video), -1, -1)
        hidden = pick_hidden(table)
        x = torch.cat([latents + pick_visible(table), self.mask_token + hidden], dim=1)
        predictions = self.decoder(x, hidden.shape[1])
        projections = self.head(labels) if self.projects else labels
        proj_scores, proj_target = self.assign(projections, self.prototypes)
        pred_scores, pred_target = self.assign(predictions, self.prototypes.detach())
        losses = [
            self.cross_entropy(*side, len(video)) for side in ((proj_scores, pred_target), (pred_scores, proj_target))
        ]
        return losses[0] + losses[1]

    def cross_entropy(self, scores: torch.Tensor, target: torch.Tensor, clips: int) -> torch.Tensor:
        """Published with classes in the middle, [B K M]."""
        scores = scores / self.temperature
        if self.fused:
            return F.cross_entropy(scores.float(), target)
        return F.cross_entropy(scores.unflatten(0, (clips, -1)).permute(0, 2, 1), target.unflatten(0, (clips, -1)))


def boolean_picks(mask: torch.Tensor) -> tuple[Pick, Pick]:
    """(visible, hidden) tubes by boolean masks, as published: each waits for the device."""
    return (lambda x: x[~mask].reshape(len(x), -1, x.shape[-1])), (lambda x: x[mask].reshape(len(x), -1, x.shape[-1]))


def gather_picks(mask: torch.Tensor) -> tuple[Pick, Pick]:
    """The same by indices."""
    order = torch.argsort(mask.int(), dim=1, stable=True)
    visible = int((~mask[0]).sum())

    def pick(index: torch.Tensor) -> Pick:
        return lambda x: torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[-1]))

    return pick(order[:, :visible].contiguous()), pick(order[:, visible:].contiguous())


def parameter_groups(model: nn.Module, weight_decay: float = 0.05) -> list[dict]:
    """No weight decay for vectors, biases and the mask token."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_plain = parameter.ndim == 1 or name.endswith(".bias") or name == "mask_token"
        (plain if is_plain else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
