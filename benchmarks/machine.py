"""What figures were taken on: said beside all of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from overhead import processor


def machine(distributions: Sequence[str]) -> dict[str, str]:
    """Processor, Python, versions of those that are installed, and the date."""
    versions = []
    for name in distributions:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "versions": ", ".join(versions),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
