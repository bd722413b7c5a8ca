"""`causal_lm`: how a small local language model reads the request."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dynflow.errors import MissingDependency
from dynflow.nodes.difficulty_classifier import kernel
from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array

MODEL = "embedded/smollm2-135m-instruct"
LAYER = 16  # of thirty
MAX_TOKENS = 256
_MEASURES = 5


class CausalLmEstimator(Estimator):
    """A tenth of a second a text and more: one pass of SmolLM2-135M. The settings are those of `embedding`.

    Of each text: the mean vector of its tokens in the middle of the model; and of the model's own probabilities of the
    tokens that are there, the mean and the lowest log-probability, and the mean entropy of the next token, over all
    tokens and at the last one, where the answer begins; and the number of tokens.
    """

    kind = "causal_lm"
    grid = ((1.5, 10.0), (1.5, 5.0), (1.5, 20.0), (1.5, 40.0))
    made_of = (
        "ridge regression with a Gaussian kernel, one per route, on 64 principal components of the vectors that layer "
        "16 of SmolLM2-135M-Instruct gives, and on its probabilities of the text's tokens"
    )

    @classmethod
    def features_of(cls) -> str:
        return f"{MODEL} {LAYER} {MAX_TOKENS} {_MEASURES}"

    def features(self, texts: Sequence[str]) -> Array:
        import numpy as np

        tokenizer, model = _loaded()
        return np.stack([_measured(tokenizer, model, normalise(text)) for text in texts])

    def fit_features(self, features: Array, quality: Array) -> None:
        import numpy as np

        # Each column counts alike, the few measures together as much as a tenth of the vector.
        scale = features.std(0) + 1e-6
        scale[-_MEASURES:] *= np.sqrt(_MEASURES / (features.shape[1] / 10))
        self.tensors = kernel.fit(features / scale, quality, *self.settings) | {"scale": scale.astype(np.float32)}

    def predict_features(self, features: Array) -> Array:
        return kernel.predict(self.tensors, features / self.tensors["scale"])


@functools.cache
def _loaded() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[transformers]"') from error
    from dynflow.models.dequantised import load_kept
    from dynflow.models.embedded import resolve_model_file

    def load(source: dict[str, Any]) -> tuple[Any, Any]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)

    tokenizer, model = load_kept(resolve_model_file(MODEL), load)
    return tokenizer, model.eval()


def _measured(tokenizer: Any, model: Any, text: str) -> Array:
    """The features of one text, float32 [d]; each is judged alone, so that a batch changes nothing."""
    import numpy as np
    import torch

    ids = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt").input_ids
    if ids.shape[1] < 2:  # nothing to predict
        ids = torch.cat([torch.full((1, 2), tokenizer.bos_token_id), ids], dim=1)
    with torch.inference_mode():
        read = model(ids, output_hidden_states=True)
        chances = torch.log_softmax(read.logits[0], -1)
        found = chances[:-1].gather(1, ids[0, 1:, None])[:, 0]
        entropy = -(chances.exp() * chances).sum(-1)
        vector = read.hidden_states[LAYER][0, 1:].mean(0)  # the first token's vector is huge, whatever it is
        measures = torch.stack(
            [found.mean(), found.min(), entropy.mean(), entropy[-1], torch.tensor(ids.shape[1]).log()]
        )
    return np.asarray(torch.cat([vector, measures]).numpy(), dtype=np.float32)
