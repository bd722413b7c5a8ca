"""What the shapes' model learns from: pictures, and the token states of their captions, made once and kept on disk."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from dynflow.models.encoder import Encoder
from dynflow.nodes.adaptive_diffusion.shapes.captions import draw_caption
from dynflow.nodes.adaptive_diffusion.shapes.scenes import SIDE, NoRoom, draw_scene, render

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NOTHING = ""
"""The caption of guidance: what a picture shows of which nothing is said."""


@dataclass(frozen=True)
class Captioned:
    """Pictures uint8 [pictures, 32, 32, 3]; `text` [pictures] says which of the texts each one's caption is.

    `states` holds the token states of all texts on end, float16 [tokens, 384]; text i's go from `starts[i]` to
    `starts[i + 1]`. Text 0 is `NOTHING`.
    """

    pictures: NDArray[np.uint8]
    text: NDArray[np.int64]
    states: NDArray[np.float16]
    starts: NDArray[np.int64]

    def context(self, texts: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The states of some texts, padded to the longest [texts, tokens, 384], and the mask [texts, tokens]."""
        lengths = self.starts[texts + 1] - self.starts[texts]
        mask = np.arange(lengths.max()) < lengths[:, None]
        states = np.zeros((*mask.shape, self.states.shape[1]), np.float32)
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            states[row, :length] = self.states[self.starts[text] : self.starts[text] + length]
        return states, mask


def prepare(folder: Path, pictures: int, seed: int = 0) -> Captioned:
    """`pictures` captioned pictures of the part "train", read from `folder` or made and kept there; shows progress."""
    wanted = {"pictures": pictures, "seed": seed}
    done = folder / "done.json"
    if not done.exists() or json.loads(done.read_text()) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        made = _make(pictures, seed)
        for name in Captioned.__dataclass_fields__:
            np.save(folder / f"{name}.npy", getattr(made, name))
        done.write_text(json.dumps(wanted))
    return Captioned(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Captioned.__dataclass_fields__))


def _make(number: int, seed: int) -> Captioned:
    rng = random.Random(seed)
    index = {NOTHING: 0}
    pictures, text = np.empty((number, SIDE, SIDE, 3), np.uint8), np.empty(number, np.int64)
    made = 0
    with tqdm(total=number, desc="pictures", mininterval=2) as bar:
        while made < number:
            caption = draw_caption(rng)
            if caption.part != "train":
                continue
            try:
                image = render(draw_scene(caption, rng, restarts=20))
            except NoRoom:
                continue
            pictures[made] = np.rint(image * 255)
            text[made] = index.setdefault(caption.text(rng), len(index))
            made += 1
            bar.update()
    encoder, states = Encoder.shared(), list[np.ndarray]()
    for said in tqdm(index, desc="captions", mininterval=2):
        states += [state.astype(np.float16) for state in encoder.tokens([said])]
    starts = np.concatenate([[0], np.cumsum([len(state) for state in states])])
    return Captioned(pictures, text, np.concatenate(states), starts)
