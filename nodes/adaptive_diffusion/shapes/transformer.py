"""The denoiser of the shapes' model: a small diffusion transformer on pixels that reads a prompt's token states.

Its parts are those of DiT (Peebles & Xie, arXiv 2212.09748), with PixArt's cross-attention and one modulation shared
by all blocks (Chen et al., arXiv 2310.00426). It predicts the clean image and gives the velocity that follows (Li & He,
arXiv 2511.13720: on pixels, the clean image is what a small network can learn).
"""

from __future__ import annotations

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

LEAST_SIGMA = 1e-3
"""The least noise level that is divided by: the last one of FlowMatchEulerDiscreteScheduler."""


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention with normalised queries and keys; tensors [batch, tokens, width], mask [batch, keys].

    Written out: for this few tokens PyTorch's fused kernel is slower on a CPU, its way back three times.
    """
    query, key, value = (each.view(*each.shape[:2], heads, -1).transpose(1, 2) for each in (query, key, value))
    query, key = (functional.layer_norm(each, each.shape[-1:]).to(value.dtype) for each in (query, key))
    scores = query @ key.transpose(-1, -2) * (1.5 / query.shape[-1] ** 0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))
    attended: Tensor = scores.softmax(-1).to(value.dtype) @ value
    return attended.transpose(1, 2).flatten(2)


def _norm(x: Tensor) -> Tensor:
    normed: Tensor = functional.layer_norm(x, x.shape[-1:])
    return normed


class Feedforward(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(functional.gelu(self.up(x), approximate="tanh"))
        return down


class ContextBlock(nn.Module):
    """Self-attention among the prompt's tokens, so that an adjective can find its noun."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.feedforward = Feedforward(width, ratio)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.qkv(_norm(x)).chunk(3, dim=-1)
        x = x + self.mix(_attend(query, key, value, self.heads, mask))
        x = x + self.feedforward(_norm(x))
        return x


class Block(nn.Module):
    """Self-attention among patches, cross-attention to the prompt, feedforward; the first and last modulated."""

    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.cross = nn.Linear(width, width)
        self.feedforward = Feedforward(width, ratio)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor, conditioning: Tensor) -> Tensor:
        """`conditioning` is [batch, 6, width]: shift, scale and gate of both parts."""
        shift, scale, gate, shift2, scale2, gate2 = (conditioning + self.modulation)[:, :, None].unbind(1)
        inner = _norm(x) * (1 + scale) + shift
        query, key, value = self.qkv(inner).chunk(3, dim=-1)
        x = x + gate * self.mix(_attend(query, key, value, self.heads))
        key, value = self.key_value(context).chunk(2, dim=-1)
        x = x + self.cross(_attend(self.query(_norm(x)), key, value, self.heads, mask))
        inner = _norm(x) * (1 + scale2) + shift2
        x = x + gate2 * self.feedforward(inner)
        return x


class ShapesTransformer(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own bases disagree
    """Noisy picture, noise level and prompt in, velocity out.

    Pictures are float [batch, channels, side, side] from -1 to 1; velocity is noise minus picture, as
    FlowMatchEulerDiscreteScheduler takes it.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 4,
        in_channels: int = 3,
        width: int = 160,
        num_layers: int = 6,
        num_heads: int = 5,
        ratio: int = 3,
        context_layers: int = 1,
        context_width: int = 384,
        max_context: int = 64,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.patches, self.patch_size, self.in_channels = sample_size // patch_size, patch_size, in_channels
        self.embed = nn.Linear(in_channels * patch_size**2, width)
        self.position = nn.Parameter(_grid(self.patches, width))
        self.context = nn.Linear(context_width, width)
        self.context_position = nn.Parameter(0.02 * torch.randn(max_context, width))
        self.context_blocks = nn.ModuleList(ContextBlock(width, num_heads, ratio) for _ in range(context_layers))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.conditioning = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, num_heads, ratio) for _ in range(num_layers))
        self.final_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, in_channels * patch_size**2)
        for silent in (self.conditioning, self.final_modulation, self.out):
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(silent.bias)
        with torch.no_grad():
            self.conditioning.bias.view(6, width)[[2, 5]] = 1.0  # gates open: the residual branches start silent below
            for name, weight in self.blocks.named_parameters():
                if name.endswith(("mix.weight", "cross.weight", "down.weight")):
                    weight.mul_(1 / math.sqrt(2 * num_layers))

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity for `hidden_states` [batch, channels, side, side] at `timestep` [batch], 0 to 1000.

        `encoder_hidden_states` is [batch, tokens, context_width], `encoder_attention_mask` [batch, tokens], true where
        a token is one.
        """
        sigma = (timestep.float() / 1000).expand(hidden_states.shape[0])
        clean = self.predict_clean(hidden_states, sigma, encoder_hidden_states, encoder_attention_mask.bool())
        sigma = sigma.clamp(min=LEAST_SIGMA)[:, None, None, None]
        velocity = ((hidden_states.float() - clean) / sigma).to(hidden_states.dtype)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def predict_clean(self, noisy: Tensor, sigma: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """The expected clean picture, float32 as `noisy`, at noise levels `sigma` [batch] from 0 to 1."""
        size, patches = self.patch_size, self.patches
        x = noisy.reshape(-1, self.in_channels, patches, size, patches, size)
        x = self.embed(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.position
        context = self.context(context) + self.context_position[: context.shape[1]]
        for block in self.context_blocks:
            context = block(context, mask)
        context = _norm(context)
        kept = mask[..., None].to(context.dtype)
        told = self.time(_waves(sigma).to(context.dtype)) + (context * kept).sum(1) / kept.sum(1)
        told = functional.silu(told)
        conditioning = self.conditioning(told).view(len(told), 6, -1)
        for block in self.blocks:
            x = block(x, context, mask, conditioning)
        shift, scale = self.final_modulation(told)[:, None].chunk(2, dim=-1)
        x = _norm(x) * (1 + scale) + shift
        with torch.autocast(x.device.type, enabled=False):  # eight bits are too few for a picture's shades
            x = functional.linear(x.float(), self.out.weight.float(), self.out.bias.float())
        x = x.view(-1, patches, patches, self.in_channels, size, size)
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def _waves(sigma: Tensor) -> Tensor:
    """Noise levels [batch] as sines and cosines of 128 frequencies: [batch, 256]."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), 128, device=sigma.device))
    angles = sigma[:, None].float() * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _grid(side: int, width: int) -> Tensor:
    """Where the patches lie, as sines and cosines of row and column: [side², width]."""
    frequencies = torch.exp(torch.linspace(0, math.log(side), width // 4)) / side * (math.pi / 2)
    along = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([along.sin(), along.cos()], dim=-1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1).clone()
