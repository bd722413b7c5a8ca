"""Sentence embeddings on the CPU: all-MiniLM-L6-v2 in 8 bits, with onnxruntime and tokenizers alone.

The files lie in `minilm/`; its README.md says where they come from, how they were made and how true they are to the
float model. `scripts/export_minilm.py` makes them.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError, MissingDependency
from dynflow.models.apart import apart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "minilm"
SHA256 = {
    "model.onnx": "a182c5a272d519788430668f5466eb5d076e041f37e3df65d5373654c278677f",
    "tokenizer.json": "71a31309bdd802f1a40845b0aceb02fb4cf6f4b81c712ae33aaff676df227115",
}
DIMENSIONS = 384
MIDDLE_LAYERS = (3, 5)  # of six; `Encoder.middle` gives their vectors
MAX_TOKENS = 256  # what the model was trained on; longer texts are cut
TOKENS = "layer5.norm2"
"""The value in the graph that holds the last layer's vector of each token, which `embedding` is the mean of."""
BATCH_TOKENS = 128
"""In one pass, padding too. On a CPU, long texts are quickest one by one, and short ones side by side."""
MAX_CHARACTERS = 16_384  # far more than MAX_TOKENS needs: keeps the tokenizer's time bounded


class Encoder:
    """Turns texts into unit vectors whose dot product is their similarity. Cheap to make; loads on first use.

    `threads` is the number of CPU threads of one call. Safe to use from several threads at once.
    """

    def __init__(self, folder: Path = FOLDER, *, threads: int = 1) -> None:
        self._folder = folder
        self._threads = threads
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    @staticmethod
    @functools.cache
    def shared() -> Encoder:
        """The process's one encoder of the shipped model, so that it is loaded once."""
        return Encoder()

    def warm_up(self) -> None:
        """Load model and tokenizer now. Raises MissingDependency, or ArtefactError for a damaged file."""
        self._load()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of `texts`, in their order: float32 of shape [len(texts), 384], each of length 1.

        A text counts up to its 256th token. A vector does not depend on the texts beside it. Raises as `warm_up`.
        """
        return self._run(texts, ["embedding"])

    def middle(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Mean vectors of layers 3 and 5, side by side: float32 of shape [len(texts), 768], each half of length 1.

        They keep of a text's form what the last layer, trained for similar meaning, gives up. As `embed` otherwise.
        """
        return self._run(texts, [f"layer{layer}" for layer in MIDDLE_LAYERS])

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The last layer's vector of each token of each text: float32 of shape [tokens, 384], each as it comes.

        The first is of [CLS] and the last of [SEP]. Raises as `warm_up`.
        """
        if threading.current_thread().daemon:
            return apart(lambda: self.tokens(texts))
        session, tokenizer = self._load()
        import numpy as np

        states = []
        for text in texts:
            ids = np.asarray([tokenizer.encode(text[:MAX_CHARACTERS]).ids], dtype=np.int64)
            states.append(session.run([TOKENS], {"ids": ids, "mask": np.ones(ids.shape, dtype=np.int32)})[0][0])
        return states

    def _run(self, texts: Sequence[str], outputs: list[str]) -> NDArray[np.float32]:
        if threading.current_thread().daemon:
            return apart(lambda: self._run(texts, outputs))
        session, tokenizer = self._load()
        import numpy as np

        tokens = [tokenizer.encode(text[:MAX_CHARACTERS]).ids for text in texts]
        vectors = np.zeros((len(texts), DIMENSIONS * len(outputs)), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))  # like lengths together: less padding
        for rows in _batches(order, [len(ids) for ids in tokens]):
            ids = np.zeros((len(rows), len(tokens[rows[-1]])), dtype=np.int64)
            mask = np.zeros(ids.shape, dtype=np.int32)
            for row, index in enumerate(rows):
                ids[row, : len(tokens[index])] = tokens[index]
                mask[row, : len(tokens[index])] = 1
            vectors[rows] = np.concatenate(session.run(outputs, {"ids": ids, "mask": mask}), axis=1)
        return vectors

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    self._loaded = apart(lambda: _open(self._folder, self._threads))
        return self._loaded


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """The rows, from short to long, parted so that none has more than BATCH_TOKENS, or is a single row."""
    rows: list[int] = []
    for row in order:
        if rows and (len(rows) + 1) * lengths[row] > BATCH_TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _open(folder: Path, threads: int) -> tuple[Any, Any]:
    try:
        import onnxruntime
        import tokenizers
    except ImportError as error:
        raise MissingDependency(error.name or "onnxruntime", 'pip install "dynflow[quickstart]"') from error

    model, tokenizer = (_verified(folder / name, digest) for name, digest in SHA256.items())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model + _output(TOKENS), options, providers=["CPUExecutionProvider"])
    return session, tokenizers.Tokenizer.from_str(tokenizer.decode())


def _output(name: str) -> bytes:
    """Makes a value of the graph an output when appended to an ONNX model: protobuf merges what follows a message."""
    named = b"\x0a" + bytes([len(name)]) + name.encode()  # ValueInfoProto.name
    output = b"\x62" + bytes([len(named)]) + named  # GraphProto.output
    return b"\x3a" + bytes([len(output)]) + output  # ModelProto.graph


def _verified(path: Path, digest: str) -> bytes:
    """The file's bytes, the very ones whose checksum was compared."""
    mend = "reinstall dynflow, or make it again with scripts/export_minilm.py"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read ({error.strerror}): {mend}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise ArtefactError(f"{path} is damaged (its SHA-256 is not the expected one): {mend}")
    return data
