"""Sentences of other domains, rated by people, to see what a shift does to an early-exit classifier.

They are in the source distribution of vaderSentiment 3.3.2 (MIT; Hutto and Gilbert, ICWSM 2014), a `.tar.gz` that the
package index holds. Its film reviews are never read: they hold sentences that SST-2 judges by.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

SETS = {
    "product reviews": "amazonReviewSnippets_GroundTruth.txt",
    "newspaper editorials": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
CLEAR = 0.5
"""Rows whose mean rating, from -4 to 4, is nearer to 0 are neither positive nor negative."""


def read_shift(source: Path) -> dict[str, tuple[list[str], list[bool]]]:
    """Texts, and whether each is positive, by domain, from the source distribution."""
    with tarfile.open(source) as outer:
        [name] = [name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")]
        inner = outer.extractfile(name)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            return {domain: _read(archive, file) for domain, file in SETS.items()}


def _read(archive: tarfile.TarFile, file: str) -> tuple[list[str], list[bool]]:
    [name] = [name for name in archive.getnames() if name.rpartition("/")[2] == file]
    content = archive.extractfile(name)
    assert content is not None
    texts, positive = [], []
    for line in content.read().decode("utf-8", errors="replace").splitlines():
        _, rating, text = line.split("\t", 2)
        if abs(float(rating)) >= CLEAR and text.strip():
            texts.append(text)
            positive.append(float(rating) > 0)
    return texts, positive
