"""Where a model's files are found: in the package (nano), in a local folder, or in the hub's cache.

Only safetensors, JSON and tokenizer files are ever downloaded, or pickles that a row of the registry or `--allow-pickle`
allows; those are converted once, in a process of their own (core/registry/pickle_conversion.py). HF_HUB_OFFLINE=1 takes
the cache alone, HF_ENDPOINT another server with the hub's interface.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from commonart.core.errors import CommonArtError
from commonart.core.registry.catalogue import TRANSLATE, Model
from commonart.core.registry.lookup import component_dir, config_prompts, model_class, read_json, require_plain_json
from commonart.core.registry.repository_files import PIPELINE, is_small, select_files, select_pickles

NANO_WEIGHTS = Path(__file__).resolve().parent.parent / "nano" / "weights"


class ResolvedModel(NamedTuple):
    """A model's files on this machine."""

    folder: Path  # holds config.json and *.safetensors (or an index of shards)
    revision: str  # the hub's commit; "sha256:..." of the files for a local or embedded folder
    name: str  # what records and runs call it
    model: Model  # its row; for a model outside the table with the class that its config.json names


Check = Callable[[Model, Path], None]


def resolve_model(model: Model, *, allow_pickle: bool = False, check: Check | None = None) -> ResolvedModel:
    """Find the folder that holds a model's files, and its revision; what is missing is downloaded.

    Args:
        check: is given the model, with its class, and a folder with its small files before weights are downloaded; it
            raises where they are not worth that.

    Raises:
        CommonArtError: no such folder or repository, no access, no network and nothing in the cache, an interrupted
            download, a repository with pickles only.
    """
    if model.role == PIPELINE and model.local:
        return ResolvedModel(Path(model.hub), content_hash(Path(model.hub)), model.name, model)
    if model.local or model.embedded:
        folder = (
            NANO_WEIGHTS / model.folder if model.folder else component_dir(Path(model.hub or NANO_WEIGHTS), model.role)
        )
        if not (folder / "config.json").is_file() and not (folder / "open_clip_config.json").is_file():
            if model.local:
                what = f"{folder} is not a model folder: it has no config.json."
                raise CommonArtError(what, "Give the folder that holds config.json.")
            what = f"The embedded nano {model.role} is missing from {folder}."
            raise CommonArtError(what, "Reinstall, or train it again with `commonart nano build`.")
        if check is not None:
            check(model, folder)
        if not any(folder.glob("*.safetensors")):
            raise CommonArtError(
                f"{folder} holds no *.safetensors.",
                "Save the model with save_pretrained, or give its hub id with --allow-pickle to have it converted.",
            )
        if model.role != "transformer":  # which is read here, by `lookup.read_json`
            require_plain_json(folder)
        return ResolvedModel(folder, content_hash(folder, model.role), model.name, model)
    folder, commit = _download(model, allow_pickle or model.pickle_only, check)
    return ResolvedModel(folder, commit, model.name, _with_class(model, folder))


def _with_class(model: Model, folder: Path) -> Model:
    """A model outside the table, with what its config.json says."""
    if model.cls:
        return model
    config = read_json(folder / "config.json")
    cls = model_class(config)
    prompts = config_prompts(config, cls) if model.role == "caption" else ()
    return dataclasses.replace(
        model, cls=cls, prompts=prompts, template=TRANSLATE if model.role == "translate" else "",
        langs=model.langs or tuple(dict.fromkeys(prompt.lang for prompt in prompts)),
    )  # fmt: skip


def content_hash(component: Path, role: str = "") -> str:
    """Return `sha256:` and 16 digits over the names and bytes of the files that a component is loaded from.

    Those of a text encoder in a pipeline include the tokenizer beside it: other tokens are other states.
    """
    total = hashlib.sha256()
    folders = [component, component.parent / "tokenizer"] if role == "text-encoder" else [component]
    for folder, path in ((f, p) for f in folders for p in sorted(f.rglob("*")) if p.is_file()):
        if path.suffix == ".safetensors" or is_small(path.name):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return f"sha256:{total.hexdigest()[:16]}"


def read_config(model: Model, name: str = "config.json") -> dict[str, Any]:
    """Read one small JSON file of a model before anything large is downloaded; {} where it has none, or the hub is away."""
    if model.local or model.embedded:
        return read_json(Path(model.hub) / name) if model.local else {}
    file = find_file(model.hub, name, model.revision)
    return read_json(file) if file is not None else {}


def find_file(repo: str, name: str, revision: str | None = None) -> Path | None:
    """Find one file of a repository, downloaded or in the cache; None where it has none, or the hub is away.

    The name of the folder that holds it is the commit.
    """
    import huggingface_hub

    offline = True
    with _unless_network():
        # Asked once whether the hub is there: a download would try six times, half a minute, with a line each.
        huggingface_hub.HfApi().model_info(repo, revision=revision)
        offline = False
    with _unless_network():
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision, local_files_only=offline))
    return None


@contextmanager
def _unless_network() -> Iterator[None]:
    """Leave the block where the hub cannot answer."""
    try:
        yield
    except Exception as error:
        if not _is_network(error):
            raise


def _download(model: Model, pickles_allowed: bool, check: Check | None = None) -> tuple[Path, str]:
    import huggingface_hub
    from huggingface_hub import errors
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    repo, revision = model.hub, model.revision
    offline: Exception | None = None
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision)
        commit, files = str(info.sha), [s.rfilename for s in info.siblings or ()]
    except errors.GatedRepoError:
        raise _gated(model) from None
    except errors.RevisionNotFoundError:
        raise CommonArtError(f"{repo} has no commit {revision} on the hub.", "Check the part after the @.") from None
    except errors.RepositoryNotFoundError:
        advice = "Check the name, or set HF_TOKEN to a token that may read it."
        raise CommonArtError(f"The hub has no model {repo}, or it is private.", advice) from None
    except Exception as error:  # no network, a proxy, a server error: what is in the cache still works
        if not _is_network(error):
            raise
        offline = error
        commit, files = _cached(repo, revision)
        if not files:
            raise _unreachable(model, error) from None
    selected = select_files(files, model.role)
    complete = any(f.endswith(".safetensors") for f in selected) and model.role != PIPELINE
    pickles = [] if complete else select_pickles(files, model.role)
    if pickles and not pickles_allowed:
        raise CommonArtError(
            f"{repo} holds its weights only as pickles ({pickles[0]}), which can run code when they are loaded.",
            "Use a model with safetensors, or add --allow-pickle to convert it once in a process of its own.",
        )
    if not pickles and not any(f.endswith(".safetensors") for f in selected):
        what = f"{repo} holds no weights that can be loaded here."
        raise CommonArtError(what, "Give a model with *.safetensors files.")
    cached = offline is not None

    def fetch(patterns: list[str]) -> Path:
        # The branch, not the commit: only then does the client note which commit it stood for, for when it is offline.
        branch = commit if cached else revision
        return Path(
            huggingface_hub.snapshot_download(repo, revision=branch, allow_patterns=patterns, local_files_only=cached)
        )

    try:
        if check is not None:
            folder = component_dir(fetch([name for name in selected if is_small(name)]), model.role)
            check(_with_class(model, folder), folder)
        snapshot = fetch(selected + pickles)
        commit = snapshot.name
    except CommonArtError:
        raise
    except errors.GatedRepoError:
        raise _gated(model) from None
    except Exception as error:
        if isinstance(error, OSError) and not _is_network(error):
            raise CommonArtError(
                f"Downloading {repo} failed: {error}.",
                "Free some space or remove that cause, then run the same command again.",
            ) from None
        if not _is_network(error):
            raise
        raise _unreachable(model, offline or error) from None
    if pickles:
        snapshot = _converted(repo, commit, snapshot, selected)
    return snapshot if model.role == PIPELINE else component_dir(snapshot, model.role), commit


def _is_network(error: Exception) -> bool:
    """Whether the hub could not answer. Its client's exceptions come from whichever HTTP library it uses."""
    from huggingface_hub import errors

    kinds = (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)
    return isinstance(error, (*kinds, TimeoutError)) or any(
        base.__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests") for base in type(error).__mro__
    )


def _cached(repo: str, revision: str | None) -> tuple[str, list[str]]:
    """Return (commit, files) of what the cache knows of a repository; no files where it knows nothing."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))
    ref = root / "refs" / "main"
    commit = revision or (ref.read_text().strip() if ref.is_file() else "")
    snapshot = root / "snapshots" / commit
    if not commit or not snapshot.is_dir():
        return "", []
    try:  # the listing that the download kept tells a whole snapshot from an interrupted one
        from huggingface_hub import get_cached_repo_tree

        return commit, [entry.path for entry in get_cached_repo_tree(repo, revision=commit)]
    except Exception:  # an older client keeps none: what lies there is all there is to know
        return commit, [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()]


def _converted(repo: str, commit: str, snapshot: Path, small: list[str]) -> Path:
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE).parent / "commonart" / "safetensors" / repo.replace("/", "--") / commit
    if home.is_dir():
        return home
    print(f"{repo} ships only pickles: converting it once to safetensors in {home}", file=sys.stderr)
    partial = home.with_name(f"{commit}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        # The child sees no token, and torch.load(weights_only=True) runs no code from the file.
        clean = {k: v for k, v in os.environ.items() if "TOKEN" not in k and "SECRET" not in k and "KEY" not in k}
        command = [sys.executable, "-m", "commonart.core.registry.pickle_conversion", str(snapshot), str(partial)]
        done = subprocess.run(command, env=clean, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            what = f"{repo}: its pickled weights could not be converted: {last}."
            raise CommonArtError(what, "Use a model with safetensors.")
        for name in small:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, partial / name)
        try:
            partial.rename(home)
        except OSError:
            if not home.is_dir():  # another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return home


def _gated(model: Model) -> CommonArtError:
    return CommonArtError(
        f"{model.hub} is gated.",
        f"Accept its terms at https://huggingface.co/{model.hub} and set HF_TOKEN to your token.",
    )


def _unreachable(model: Model, error: Exception) -> CommonArtError:
    from huggingface_hub import constants, errors

    offline = constants.HF_HUB_OFFLINE or isinstance(error, errors.OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else f"the hub at {constants.ENDPOINT} cannot be reached"
    return CommonArtError(
        f"{model.hub} is not complete in the cache, there is no folder of that name, and {why}.",
        f"Run `hf download {model.hub}` where there is a network, or give a local folder; "
        "the model `nano` is part of this package and needs no download.",
    )
