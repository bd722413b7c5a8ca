"""Tiny random Whisper models with a tokenizer of bytes, that hear two seconds at a time; and sounds for them."""

from __future__ import annotations

import base64
import io
import math
import wave
from array import array
from pathlib import Path
from typing import Any

RATE = 16_000
WINDOW = 2.0
"""Seconds that the models hear at a time."""
LANGUAGES = {"<|en|>": "en", "<|de|>": "de", "<|fr|>": "fr"}
_SPECIAL = ("<|startoftranscript|>", *LANGUAGES, "<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>")


def tokenizer(extra: tuple[str, ...] = ()) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import WhisperTokenizer

    vocabulary = {token: index for index, token in enumerate((*sorted(ByteLevel.alphabet()), "<|endoftext|>"))}
    made = WhisperTokenizer(vocab=vocabulary, merges=[], pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": [*_SPECIAL, *extra, "<|notimestamps|>"]})
    made.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(int(WINDOW / 0.02) + 1)])
    return made


def save_whisper(
    folder: Path, seed: int = 0, width: int = 16, layers: int = 1, spread: float = 0.6, extra: tuple[str, ...] = ()
) -> Path:
    """A random Whisper, saved as the hub's are. `spread` of its weights: the more, the less its texts repeat."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    words = tokenizer(extra)
    ids = words.get_vocab()
    end = ids["<|endoftext|>"]
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=len(words),
        num_mel_bins=16,
        d_model=width,
        encoder_layers=1,
        decoder_layers=layers,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_source_positions=int(WINDOW * 50),
        max_target_positions=48,
        init_std=spread,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # later layers say little, so that a model of the first one alone agrees now and then
        for layer in model.get_decoder().layers[1:]:
            for last in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                last.weight *= 0.1
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
        max_length=24,
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in LANGUAGES},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_initial_timestamp_index=50,
        suppress_tokens=[ids[token] for token in (*_SPECIAL, *extra)],
        begin_suppress_tokens=[ids["a"], end],
        return_timestamps=False,
    )
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=int(WINDOW)).save_pretrained(folder)
    return folder


def save_distilled(teacher: Path, folder: Path, noise: float = 0.0) -> Path:
    """The teacher with the first layer of its decoder alone; with `noise` it hears otherwise, and by itself."""
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    taught = WhisperForConditionalGeneration.from_pretrained(teacher)
    del taught.get_decoder().layers[1:]
    taught.config.decoder_layers = 1
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in taught.get_encoder().parameters():
            weight += noise * torch.randn_like(weight)
    taught.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    WhisperFeatureExtractor.from_pretrained(teacher).save_pretrained(folder)
    return folder


def sound(seconds: float, seed: int = 0, rate: int = RATE) -> array[int]:
    """A chirp of some tones, 16 bits."""
    begin = 200 + 37 * seed
    return array(
        "h",
        (
            int(9000 * math.sin(2 * math.pi * (begin + 150 * math.floor(4 * place / rate)) * place / rate))
            for place in range(int(seconds * rate))
        ),
    )


def wav(seconds: float, seed: int = 0, rate: int = RATE) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound(seconds, seed, rate).tobytes())
    return buffer.getvalue()


def block(data: bytes, mime: str = "audio/wav") -> dict[str, str]:
    """LangChain's content block of it."""
    return {"type": "audio", "base64": base64.b64encode(data).decode("ascii"), "mime_type": mime}
