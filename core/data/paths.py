"""Names of files that other people's data gives, resolved inside the folder that the user gave, or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def file_inside(folder: str | os.PathLike[str], name: str) -> Path | None:
    """Return the file `name` in `folder`; None where there is none, or where it leads out, by `..`, a root or a link."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):  # False for a name that no file can have
        return None
    root, path = os.path.realpath(folder), os.path.realpath(path)
    return Path(path) if path.startswith(os.path.join(root, "")) else None
