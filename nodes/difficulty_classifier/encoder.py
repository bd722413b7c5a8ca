"""`encoder`: the sentence encoder's lower layers, fine-tuned by low-rank changes."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any

from dynflow.errors import MissingDependency
from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array

MODEL = "embedded/all-minilm-l6-v2"
LAYERS = 5  # of six: the last is trained away from what is asked for here
TUNED = (3, 4)  # counted from 0: the layers that are changed
RANK = 8
MAX_TOKENS = 128
BATCH = 16
RATE = 1e-3
_SEED = 0
_PARTS = ("query", "value")
_lock = threading.Lock()  # the changes are hung on the one shared model while it runs


class EncoderEstimator(Estimator):
    """Tens of milliseconds a text, and minutes to fit: all-MiniLM-L6-v2 up to its fifth layer, in PyTorch.

    The query and value projections of layers 4 and 5 learn a change of rank 8 (LoRA, arXiv 2106.09685) together with a
    linear head on the mean of the tokens' vectors, by the cross-entropy of each route's quality. The one setting is the
    number of epochs.
    """

    kind = "encoder"
    grid = ((4.0,),)
    made_of = "all-MiniLM-L6-v2 up to layer 5, of which layers 4 and 5 are fine-tuned by changes of rank 8"

    @classmethod
    def features_of(cls) -> str:
        return f"{MODEL} {MAX_TOKENS}"

    def features(self, texts: Sequence[str]) -> Array:
        """Token ids, int32 [n, 128], with 0 after a text's end."""
        import numpy as np

        tokenizer, _ = _loaded()
        ids = np.zeros((len(texts), MAX_TOKENS), dtype=np.int32)
        for row, text in enumerate(texts):
            tokens = tokenizer.encode(normalise(text)).ids[:MAX_TOKENS]
            ids[row, : len(tokens)] = tokens
        return ids  # type: ignore[return-value]  # whole numbers here

    def fit_features(self, features: Array, quality: Array) -> None:
        import torch

        learnt: dict[str, Any]
        draw = torch.Generator().manual_seed(_SEED)
        width, routes = 384, quality.shape[1]
        learnt = {"head": torch.zeros(width, routes), "intercept": torch.logit(_tensor(quality).mean(0), eps=0.01)}
        for name in _changed():
            learnt[f"{name}.down"] = torch.randn(width, RANK, generator=draw) / width**0.5
            learnt[f"{name}.up"] = torch.zeros(RANK, width)
        for value in learnt.values():
            value.requires_grad_()
        optimiser = torch.optim.AdamW(learnt.values(), lr=RATE, weight_decay=0.01)
        targets, steps = _tensor(quality), int(self.settings[0]) * -(-len(features) // BATCH)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
        for _ in range(int(self.settings[0])):
            order = torch.randperm(len(features), generator=draw)
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                logits = _logits(learnt, features[rows.numpy()])
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets[rows])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        self.tensors = {name: value.detach().numpy() for name, value in learnt.items()}

    def predict_features(self, features: Array) -> Array:
        import numpy as np
        import torch

        learnt = {name: _tensor(value) for name, value in self.tensors.items()}
        with torch.inference_mode():
            rows = [torch.sigmoid(_logits(learnt, features[row : row + 1])).numpy() for row in range(len(features))]
        return np.concatenate(rows)


def _changed() -> list[str]:
    return [f"{layer}.{part}" for layer in TUNED for part in _PARTS]


def _tensor(values: Any) -> Any:
    import torch

    return torch.as_tensor(values, dtype=torch.float32)


def _logits(learnt: dict[str, Any], ids: Array) -> Any:
    """Of P(good) per route, [n, k], from token ids [n, t]."""
    import torch

    _, bert = _loaded()
    length = max(int((ids > 0).sum(1).max()), 1)
    tokens = torch.as_tensor(ids[:, :length], dtype=torch.long)
    kept = (tokens > 0).float()
    with _lock, contextlib.ExitStack() as hung:
        for name in _changed():
            layer, part = name.split(".")
            change = functools.partial(_change, learnt[f"{name}.down"], learnt[f"{name}.up"])
            projection = getattr(bert.encoder.layer[int(layer)].attention.self, part)
            hung.callback(projection.register_forward_hook(change).remove)
        vectors = bert(input_ids=tokens, attention_mask=kept).last_hidden_state
    mean = (vectors * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
    return mean @ learnt["head"] + learnt["intercept"]


def _change(down: Any, up: Any, _module: Any, inputs: Any, output: Any) -> Any:
    return output + inputs[0] @ down @ up


@functools.cache
def _loaded() -> tuple[Any, Any]:
    """Tokenizer and truncated model, whose own weights stay as they are."""
    try:
        import tokenizers
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[transformers]"') from error
    from dynflow.models.embedded import locate
    from dynflow.models.encoder import FOLDER

    model = transformers.BertModel.from_pretrained(locate(MODEL))
    model.encoder.layer = model.encoder.layer[:LAYERS]
    return tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json")), model.train(False).requires_grad_(False)
