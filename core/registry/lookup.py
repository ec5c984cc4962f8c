"""Models by name: a row of the catalogue, a local folder or a hub id, and whether its terms allow what is asked.

The command line and its completion import this: no torch here.
"""

from __future__ import annotations

import codecs
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.registry.catalogue import MODELS, ROLES, SUBFOLDERS, TRANSLATE, WRITES, Model, Prompt, prompts_for

# Licences that lay no claim on what a model writes. Read from a folder's README.md where the table knows nothing.
OPEN = {
    "mit": "MIT", "apache-2.0": "Apache-2.0", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause",
    "isc": "ISC", "cc0-1.0": "CC0-1.0", "cc-by-4.0": "CC-BY-4.0", "unlicense": "Unlicense",
}  # fmt: skip
UNKNOWN_LICENSE = "LicenseRef-unknown"
COMMIT = re.compile(r"[0-9a-f]{40}")


def model_names(role: str) -> list[str]:
    """List the names that `--model` knows for a role, usable ones first."""
    rows = [model for model in MODELS if model.role == role]
    return [m.name for m in sorted(rows, key=lambda m: bool(m.refused or m.broken))]


def find_model(name: str, role: str, flag: str = "--model") -> Model:
    """Find the model called `name` in `role`: a row of the table, a local folder, or a hub id; `NAME@COMMIT` pins a commit.

    `flag` is the option that gave the name, for errors. Raises UsageError for another name; it says which come closest.
    """
    if role not in ROLES:
        raise ValueError(f"{role!r} is none of {ROLES}")
    for row in MODELS:
        if row.role == role and row.name == name:
            return row
    if Path(name).is_dir():
        return _local(os.path.normpath(name), role)
    plain, _, commit = name.partition("@")
    if commit and not COMMIT.fullmatch(commit):
        advice = "Give the 40 hexadecimal digits of a commit after the @."
        raise UsageError(f"{flag} {name}: '{commit}' is not a commit.", advice)
    for row in MODELS:
        if row.role == role and plain in (row.name, row.hub) and plain:
            return dataclasses.replace(row, revision=commit or row.revision)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", plain) and plain[0] not in "./":
        return Model(
            plain, role, plain, "", UNKNOWN_LICENSE, outputs="unknown", revision=commit or None,
            refused="no such folder is here; as a hub id, its terms are not in our table" if role in WRITES else "",
        )  # fmt: skip
    known = model_names(role)
    close = difflib.get_close_matches(plain.lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    other = next((row.role for row in MODELS if row.name == plain), "")
    kind = f"a {other} model, not a {role} model" if other else f"not a {role} model, a folder or a hub id"
    raise UsageError(
        f"{flag} {name} is {kind}.",
        f"{hint}Known names: {', '.join(known)}; or give a local folder or owner/name of the hub.",
    )


def check_terms(model: Model, accepted: Sequence[str] = (), flag: str = "--model") -> bool:
    """Return whether a refused model is used on the user's word; whoever writes its output keeps that in the record.

    Args:
        accepted: what `--accept-terms` gives: names, hub ids or folders, in any way that `flag` takes them.

    Raises:
        UsageError: its terms do not allow what we do with it; the error says why, and what can be used instead.
    """
    instead = f"Use {flag} {model.successor}" if model.successor else "Use a model from `commonart models`"
    if model.broken:
        raise UsageError(f"{flag} {model.name} cannot be used: {model.broken}.", f"{instead}.")
    if not model.refused:
        return False
    names = {os.path.normpath(name) if model.local else name.partition("@")[0] for name in accepted}
    if names & {model.name, model.hub}:
        return True
    raise UsageError(
        f"{flag} {model.name} is refused: {model.refused} ({model.license}).",
        f"{instead}, or add --accept-terms {model.name} if you answer for it yourself.",
    )


def check_code(model: Model, trust_remote_code: bool = False, flag: str = "--model") -> None:
    """Raise UsageError for a model with its own code, unless the user trusts it and names the commit that was read."""
    if model.remote_code and not trust_remote_code:
        raise UsageError(
            f"{flag} {model.name} runs code from {model.hub}, which is not trusted by default.",
            f"Read that code at one commit, then add --trust-remote-code and {flag} {model.name}@COMMIT.",
        )
    if model.remote_code and not model.local and not model.revision:
        raise UsageError(
            f"--trust-remote-code needs a commit of {model.hub}: a branch can change under you.",
            f"Name the commit that you read: {flag} {model.name}@COMMIT.",
        )


def component_dir(folder: Path, role: str) -> Path:
    """Return the sub-folder of a pipeline's `folder` that holds `role`; `folder` itself where it is not a pipeline."""
    subfolder = folder / SUBFOLDERS[role]
    return subfolder if subfolder.is_dir() and not (folder / "config.json").is_file() else folder


def model_class(config: Mapping[str, Any]) -> str:
    """Return the class that a config.json names, of transformers or diffusers; "" where it names none."""
    architectures = config.get("architectures")
    return str(architectures[0] if isinstance(architectures, list) and architectures else config.get("_class_name", ""))


def config_prompts(config: Mapping[str, Any], cls: str) -> tuple[Prompt, ...]:
    """Return what a captioner is asked: what its config.json says, which ours wrote of its training, or its class."""
    told = config.get("commonart_prompts", ())
    return tuple(Prompt(lang, length, tuple(texts)) for lang, length, texts in told) or prompts_for(cls)


def _local(name: str, role: str) -> Model:
    folder = component_dir(Path(name), role)
    config = read_json(folder / "config.json")
    cls = model_class(config)
    license = _readme_license(folder / "README.md") or _readme_license(Path(name) / "README.md")
    # A pipeline brings its own text encoder and autoencoder; a bare transformer leaves them to the user.
    pipeline = role == "transformer" and (Path(name) / "model_index.json").is_file()
    prompts = config_prompts(config, cls) if role == "caption" else ()
    return Model(
        name,
        role,
        hub=name,
        cls=cls,
        license=license or UNKNOWN_LICENSE,
        outputs="free" if license else "unknown",
        prompts=prompts,
        template=TRANSLATE if role == "translate" else "",
        langs=tuple(dict.fromkeys(prompt.lang for prompt in prompts)),
        local=True,
        text_encoder=name if pipeline else "",
        autoencoder=name if pipeline else "",
        checked="README.md in the folder" if license else "",
        refused="" if license or role not in WRITES else "its folder has no README.md that names an open licence",
        broken="its training has not ended yet" if role == "caption" and not config and _is_run(name) else "",
    )


def _is_run(name: str) -> bool:
    """Return whether a folder is a training run, which has its `captioner/` when it has ended."""
    return (Path(name) / "run.json").is_file()


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; {} where there is no file. Raises CommonArtError for a damaged one."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise CommonArtError(f"{path} is not valid JSON: {error}.", "Copy the model folder again.") from None
    return value if isinstance(value, dict) else {}


def require_plain_json(folder: Path) -> None:
    """Raise CommonArtError for a byte order mark, with which transformers and diffusers call a JSON file invalid."""
    for path in sorted(folder.glob("*.json")):
        with path.open("rb") as file:
            if file.read(3) == codecs.BOM_UTF8:
                raise CommonArtError(
                    f"{path} begins with a byte order mark, which the model's library cannot read.",
                    "Save it as UTF-8 without a byte order mark.",
                )


def _readme_license(path: Path) -> str:
    """Return the SPDX id in a model card's header; "" when there is none or it is not an open licence."""
    if not path.is_file():
        return ""
    header = path.read_text(encoding="utf-8-sig", errors="replace").split("---", 2)
    match = re.search(r"^license:\s*['\"]?([\w.+-]+)", header[1], re.MULTILINE) if len(header) == 3 else None
    return OPEN.get(match[1].lower(), "") if match else ""
