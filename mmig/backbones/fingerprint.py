"""A short name for the weights in a folder: equal for copies, different for other weights, cheap for large files.

sha256 over each weights file's safetensors header and a block of every tensor, and over config.json without version
notes. A changed byte outside the sampled blocks goes unseen; training moves every tensor, so it does not. The digest
of a file is cached by path, size and modification time, in
mmig/fingerprints under XDG_CACHE_HOME or ~/.cache.
"""

import hashlib
import json
import logging
import re
import struct
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mmig.backbones.files import part_folder, part_prefix, read_json, weight_files
from mmig.backbones.hub import cached_snapshot, is_hub_id, locate, split_revision
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import PARTS, PIPELINE_PARTS, BackboneError, Part
from mmig.base.files import cache_folder, write_text
from mmig.base.paths import looked_in, resolved

logger = logging.getLogger(__name__)

_BLOCK = 4096
_WHOLE = 1 << 20
_SMALL_FILES = (".json", ".txt", ".model", ".jinja")
_CONFIGS = ("config.json", "open_clip_config.json")
_NOTES = ("_name_or_path", "transformers_version", "_diffusers_version", "torch_dtype", "dtype")


def fingerprint(path: Source, part: str | None = None) -> str:
    """Fingerprint of a part, or of all parts of a pipeline's root: 64 hexadecimal digits.

    Args:
        path: hub id, local folder or origin of a backbone, as the loaders take it.
        part: name of one part ("vae", "unet", "llm" ...); an origin knows its own. Default: what the folder is or
            holds; of a hub model, what the cache holds, so name the part where two machines may have fetched different
            ones.

    Raises:
        BackboneError: missing or broken files, or an unknown part.
    """
    cache = cache_folder("fingerprints")
    whole = hashlib.sha256()
    if isinstance(path, Origin):  # alone a part has no name, wherever it lies
        folders = [("", locate(path, path.part), path.part.has_weights)]
    else:
        folders = _folders(path, part)
    for name, folder, weights in folders:
        whole.update(f"{name}:{_folder_digest(folder, weights, cache)}\n".encode())
    return whole.hexdigest()


def fingerprints(path: str, parts: Collection[Part], setting: str) -> str:
    """Fingerprints of the parts that a setting names, in one text."""
    return " ".join(fingerprint(Origin(path, part, setting)) for part in parts)


def identity(path: str, parts: Collection[Part], setting: str) -> str:
    """What a model that only gives recorded answers is known by: its hub id, so that these can be replayed where it is
    not; that of a folder by its fingerprints.
    """
    return path if is_hub_id(path) else fingerprints(path, parts, setting)


def file_fingerprint(file: Path) -> str:
    """Fingerprint of one file of weights that lies in no folder of a model: 64 hexadecimal digits."""
    return _file_digest(file, cache_folder("fingerprints"))


def _folders(path: str | Path, part: str | None) -> list[tuple[str, Path, bool]]:
    """(name, folder, has weights) of what to hash; a single part has no name: it is the same alone and in a
    pipeline's root.
    """
    if part is not None:
        if part not in PARTS:
            raise BackboneError(f"fingerprint: no part {part!r}; expected one of {', '.join(PARTS)}")
        return [("", locate(path, PARTS[part]), PARTS[part].has_weights)]
    root = cached_snapshot(*split_revision(path), None) if is_hub_id(path) else resolved(path)
    if not root.is_dir():
        raise BackboneError(
            f"fingerprint: the folder {path} does not exist{looked_in(root)}; correct the path or fetch the model"
        )
    if any((root / name).is_file() for name in _CONFIGS):
        return [("", root, True)]
    names = {file.relative_to(root).as_posix() for file in root.glob("*/*")}
    held = [each for each in PIPELINE_PARTS if part_prefix(names, each)]
    return [(each.name, part_folder(root, each), each.has_weights) for each in held] or [("", root, False)]


def _folder_digest(folder: Path, has_weights: bool, cache: Path) -> str:
    digest = hashlib.sha256()
    if has_weights:
        small = [name for name in _CONFIGS if (folder / name).is_file()]
        for file in weight_files(folder):
            digest.update(f"{file.name}:{_file_digest(file, cache)}\n".encode())
    else:  # a tokenizer or a scheduler: its small files are all there is
        small = sorted(file.name for file in folder.iterdir() if file.suffix in _SMALL_FILES)
    if not small:
        raise BackboneError(f"{folder}: expected a model, tokenizer or scheduler, found no file of one")
    for name in small:
        digest.update(f"{name}:".encode() + _content(folder / name))
    return digest.hexdigest()


def _content(file: Path) -> bytes:
    if file.suffix != ".json":
        return file.read_bytes()
    config = {key: value for key, value in read_json(file).items() if key not in _NOTES}
    return json.dumps(config, sort_keys=True).encode()


def _file_digest(file: Path, cache: Path) -> str:
    """Digest of one weights file, from the cache where the same file (path, size, time) was read before."""
    stat = file.stat()
    identity = f"{file.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{_BLOCK}"
    entry = cache / hashlib.sha256(identity.encode()).hexdigest()
    if entry.is_file() and re.fullmatch("[0-9a-f]{64}", known := entry.read_text()):
        return known
    digest = hashlib.sha256(str(stat.st_size).encode())
    for block in _sampled(file):
        digest.update(block)
    _remember(entry, digest.hexdigest())
    return digest.hexdigest()


def _sampled(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _WHOLE:
            yield stream.read()
            return
        starts: Iterable[int] = range(0, size, max(_BLOCK, size // 256))
        if file.suffix == ".safetensors":
            header = stream.read(8)
            length = struct.unpack("<Q", header)[0]
            if length > size - 8:
                raise BackboneError(
                    f"{file}: expected a safetensors header of {length} bytes, the file has {size}; fetch it again"
                )
            text = stream.read(length)
            yield header + text
            starts = _tensor_starts(file, text, 8 + length)
        for start in starts:
            stream.seek(start)
            yield stream.read(_BLOCK)


def _tensor_starts(file: Path, header: bytes, data: int) -> list[int]:
    """Where to read: the beginning and the middle of every tensor."""
    try:
        spans = [entry["data_offsets"] for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{file}: expected a safetensors header: {error}; fetch it again") from error
    return sorted({data + start for start, _ in spans} | {data + (start + end) // 2 for start, end in spans})


def _remember(entry: Path, digest: str) -> None:
    try:
        write_text(entry, digest)
    except OSError as error:  # a read-only home: the fingerprint is right all the same, only slower next time
        logger.warning("fingerprints cannot be remembered in %s: %s", entry.parent, error)
