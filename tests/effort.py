"""How much work the long proofs do: `make soak` does ten times what CI does."""

from __future__ import annotations

import os

EFFORT = 10 if os.environ.get("DYNFLOW_SOAK") else 1
