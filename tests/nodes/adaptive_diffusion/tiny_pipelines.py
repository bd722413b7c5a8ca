"""Stock pipelines of each family with tiny random weights: they draw noise, but by the same code as the real ones."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

_LETTERS = string.ascii_lowercase + string.digits


def _seeded(make: Any, *args: Any, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    return make(*args, **kwargs).eval()


def _clip_tokenizer() -> CLIPTokenizer:
    words = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({word: place for place, word in enumerate(words)}, [], model_max_length=77)


def _clip(cls: Any = CLIPTextModel, **more: Any) -> Any:
    config = CLIPTextConfig(
        vocab_size=74, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=72, eos_token_id=73, pad_token_id=73, projection_dim=8, **more,
    )  # fmt: skip
    return _seeded(cls, config)


def _t5() -> dict[str, Any]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((each, -2.0) for each in _LETTERS)]
    config = T5Config(vocab_size=len(pieces), d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    return {"tokenizer": T5Tokenizer(pieces, extra_ids=0), "encoder": _seeded(T5EncoderModel, config)}


def _vae(blocks: int = 2) -> AutoencoderKL:
    return _seeded(
        AutoencoderKL,
        block_out_channels=(8,) * blocks,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
        shift_factor=0.0,
        use_quant_conv=True,
    )


def _unet(**more: Any) -> UNet2DConditionModel:
    shape: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 8,
        "attention_head_dim": 2,
        "norm_num_groups": 2,
    }
    return _seeded(UNet2DConditionModel, **(shape | more))


def stable_diffusion() -> StableDiffusionPipeline:
    """Of the SD-1.5 family: UNet, noise prediction, PNDM as it is shipped."""
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        unet=_unet(),
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    """Of the SDXL family: two text encoders, added conditions, Euler."""
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=_unet(
            cross_attention_dim=16,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=8 + 6 * 4,
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def stable_diffusion_3() -> StableDiffusion3Pipeline:
    """Of the SD3 family: a transformer, flow matching."""
    t5 = _t5()
    transformer = _seeded(
        SD3Transformer2DModel,
        sample_size=8, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=16, out_channels=4,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=_clip(CLIPTextModelWithProjection),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_clip(CLIPTextModelWithProjection),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=t5["tokenizer"],
    )


def flux() -> FluxPipeline:
    """Of the Flux family: packed latents, flow matching, guidance distilled in."""
    t5 = _t5()
    transformer = _seeded(
        FluxTransformer2DModel,
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4), guidance_embeds=True,
    )  # fmt: skip
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=_clip(),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=t5["encoder"],
        tokenizer_2=t5["tokenizer"],
    )


def pixart() -> PixArtSigmaPipeline:
    """Of the PixArt and DiT family: a transformer, noise prediction, no callback."""
    t5 = _t5()
    transformer = _seeded(
        PixArtTransformer2DModel,
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=8, sample_size=32, patch_size=4, caption_channels=8, use_additional_conditions=False,
    )  # fmt: skip
    return PixArtSigmaPipeline(
        tokenizer=t5["tokenizer"],
        text_encoder=t5["encoder"],
        vae=_vae(blocks=4),  # its sizes are those of 256 x 256 or more
        transformer=transformer,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
    )


FAMILIES = {make.__name__: make for make in (stable_diffusion, stable_diffusion_xl, stable_diffusion_3, flux, pixart)}
