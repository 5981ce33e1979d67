"""From "hub id or local folder" to a local folder. A local folder never touches the network; a hub id is looked up in
the cache first, and downloaded only where something is missing and HF_HUB_OFFLINE is not set.

A hub id is `owner/name`, or `owner/name@revision`. Only the files of the wanted part are downloaded, weights as
safetensors; those in half precision only where a repository, or a cache that cannot be filled up, holds no others.
"""

import contextlib
import importlib
import logging
import re
from collections.abc import Collection
from pathlib import Path

from mmig.backbones.files import part_folder, part_prefix, weight_names
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import UNET, BackboneError, Part
from mmig.base.paths import resolved

logger = logging.getLogger(__name__)

RUN_READER = "mmig.checkpoints.as_backbone"
"""What turns a run into a folder in the published layout. It builds the run's module, and so stands above this room:
found by name, as methods are.
"""
_WEIGHTS_FILES = (".ckpt", ".safetensors")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_SMALL_FILES = (".json", ".txt", ".model", ".jinja")  # the last are chat templates


def is_hub_id(path: str | Path) -> bool:
    """Whether `path` is not a folder here and reads as `owner/name` or `owner/name@revision`."""
    text = str(path)
    return not resolved(text).exists() and not text.startswith((".", "~")) and bool(_HUB_ID.fullmatch(text))


def is_run(path: Path) -> bool:
    """Whether something here is a run of ours, one of its checkpoints, or a file of weights."""
    if path.suffix in _WEIGHTS_FILES:
        return path.exists()
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()


def split_revision(path: str | Path) -> tuple[str, str]:
    """Repository and revision ("" where none is given) of a hub id."""
    repo, _, revision = str(path).partition("@")
    return repo, revision


def locate(path: Source, part: Part, *, cache_dir: Path | None = None) -> Path:
    """The complete local folder of a part.

    Args:
        path: hub id, or local folder, see `resolved`: the part's own one or the pipeline's root; a run, a checkpoint or
            a file of weights of ours, whose export holds the part; or a backbone's origin, which then says which part
            it is.
        cache_dir: where hub files are kept; default: the hub's own cache (HF_HOME).

    Raises:
        BackboneError: nothing there, incomplete, or the hub cannot be reached.
    """
    if isinstance(path, Origin):
        path, part = path.path, path.part
    if not is_hub_id(path):
        folder = resolved(path)
        return part_folder(_exported(folder) if is_run(folder) else folder, part)
    repo, revision = split_revision(path)
    try:
        return part_folder(cached_snapshot(repo, revision, cache_dir), part, variants=())
    except BackboneError as error:
        lacking = error
    try:
        return _download(repo, revision, part, cache_dir, lacking)
    except BackboneError:
        with contextlib.suppress(BackboneError):  # better the half precision that is here than nothing
            return part_folder(cached_snapshot(repo, revision, cache_dir), part)
        raise


def holds(path: str | Path, part: Part) -> bool:
    """Whether a root holds a part that only some pipelines have (`Part.beside`); True of a part of all pipelines.

    Of a hub id the hub's own list is asked only where the cache does not say.
    """
    if not part.beside:
        return True
    if not is_hub_id(path):
        folder = resolved(path)
        root = _exported(folder) if is_run(folder) else folder
        return (root / part.beside).is_dir() and (root / part.subfolder).is_dir()
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError

    repo, revision = split_revision(path)
    with contextlib.suppress(BackboneError):
        cached = {file.name for file in cached_snapshot(repo, revision, None).iterdir()}
        if part.subfolder in cached or (constants.HF_HUB_OFFLINE and part.beside in cached):
            return part.subfolder in cached
        if UNET.subfolder in cached and part.beside != UNET.subfolder:  # a pipeline of another kind is there already
            return False
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        files = HfApi().model_info(repo, revision=revision or None).siblings or []
    except (HTTPError, OSError):  # loading says what is missing
        return False
    return any(file.rfilename.startswith(f"{part.subfolder}/") for file in files) and any(
        file.rfilename.startswith(f"{part.beside}/") for file in files
    )


def needed_files(names: Collection[str], part: Part) -> list[str]:
    """The files of a hub repository that loading a part needs; empty where the repository does not hold it."""
    prefix = part_prefix(names, part)
    if prefix is None:
        return []
    own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    own = {name for name in own if "/" not in name}
    small = [name for name in own if name.endswith(_SMALL_FILES)]
    return sorted(prefix + name for name in {*small, *(weight_names(own) if part.has_weights else ())})


def cached_snapshot(repo: str, revision: str, cache_dir: Path | None) -> Path:
    """The folder of what the cache holds of a repository, complete or not.

    Raises:
        BackboneError: the cache holds nothing of it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    options = {"revision": revision or None, "cache_dir": cache_dir, "local_files_only": True}
    try:
        # A pattern that matches no file: what is complete is judged here, part by part.
        return Path(snapshot_download(repo, allow_patterns=["-"], **options))
    except LocalEntryNotFoundError as error:
        raise BackboneError(f"nothing of {repo} is in the cache") from error


def _exported(run: Path) -> Path:
    return importlib.import_module(RUN_READER).exported(run)


def _download(repo: str, revision: str, part: Part, cache_dir: Path | None, lacking: BackboneError) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HTTPError

    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    advice = (
        f"{part.name}: {repo} is no local folder and not complete in the hub cache {cache} ({lacking}); run "
        "`python -m mmig.backbones fetch --config FILE` where there is a network, or give a local folder"
    )
    if constants.HF_HUB_OFFLINE:
        raise BackboneError(f"{advice}. Offline: HF_HUB_OFFLINE is set")
    try:
        info = HfApi().model_info(repo, revision=revision or None)
        names = [file.rfilename for file in info.siblings or []]
        files = needed_files(names, part)
        if not files:
            found = ", ".join(sorted(names)[:8])
            raise BackboneError(f"hub repository {repo}: expected {part.marks()} of a {part.name}, found {found}")
        logger.info("%s: fetching %d files of %s", part.name, len(files), repo)
        folder = snapshot_download(repo, revision=revision or None, cache_dir=cache_dir, allow_patterns=files)
    except (HTTPError, OSError) as error:  # the hub's own errors are both or one of them
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise BackboneError(f"{advice}. {type(error).__name__}: {first_line}") from error
    return part_folder(Path(folder), part)
