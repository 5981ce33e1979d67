"""Small datasets in the layouts in which the real ones are published."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.datamodules.make_samples import make_image


def picture(seed: int, size: tuple[int, int] = (16, 16), form: str = "JPEG") -> bytes:
    """An encoded picture of (width, height) pixels."""
    buffer = io.BytesIO()
    make_image(seed, 8).resize(size).save(buffer, form, quality=100)
    return buffer.getvalue()


def as_png(image: Image.Image | np.ndarray) -> bytes:
    """An image as PNG bytes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: Mapping[str, bytes | str | Any]) -> Path:
    """Write files by their paths below a folder; what is neither bytes nor text becomes JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def ipr2pr_files(prompts: int, seeds: int = 2, caption: str = "input") -> dict[str, Any]:
    """`seeds.json` (in an order of its own) and the folders of an InstructPix2Pix dump."""
    names = [f"{(7 * number) % 1000:07d}" for number in range(prompts)]
    files: dict[str, Any] = {}
    listed = []
    for place, name in enumerate(names):
        of_prompt = [str(1000 * place + number) for number in range(seeds)]
        listed.append([name, of_prompt])
        texts = {caption: f"a photo {name}", "edit": f"make it {name}", "output": f"a drawing {name}"}
        files[f"{name}/prompt.json"] = texts
        notes = [{"seed": int(seed), "cfg_scale": 7.5, "clip_sim_dir": 0.25} for seed in of_prompt]
        files[f"{name}/metadata.jsonl"] = "".join(json.dumps(note) + "\n" for note in notes)
        for seed in of_prompt:
            for side in (0, 1):
                files[f"{name}/{seed}_{side}.jpg"] = picture(2 * int(seed) + side)
    return {"seeds.json": listed, **files}


def zipped(files: Mapping[str, bytes | str | Any], method: int = zipfile.ZIP_STORED) -> bytes:
    """The same files as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, bytes | str) else json.dumps(content))
    return buffer.getvalue()


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], rows_in_group: int = 4) -> Path:
    """A parquet file as the hub has them: pictures (bytes) as structs of bytes and path, several row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        name: [{"bytes": cell, "path": f"{n}.jpg"} if isinstance(cell, bytes) else cell for n, cell in enumerate(cells)]
        for name, cells in columns.items()
    }
    pq.write_table(pa.table(table), path, row_group_size=rows_in_group)
    return path


def write_img2dataset(root: Path, shard: int, records: Sequence[Mapping[str, Any]], failed: int = 1) -> Path:
    """A shard as img2dataset writes it: unsorted tar, parquet (failed downloads too) and statistics."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [{"key": f"{shard:05d}{n:04d}", "status": "success", **record} for n, record in enumerate(records)]
    with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
        for number, row in reversed(list(enumerate(rows))):
            members = {"jpg": picture(100 * shard + number), "txt": str(row.get("caption", "")).encode()}
            members["json"] = json.dumps(row, indent=4).encode()
            for field, data in members.items():
                info = tarfile.TarInfo(f"{row['key']}.{field}")
                info.size, info.mtime = len(data), 1_700_000_000
                tar.addfile(info, io.BytesIO(data))
    lost = [{"key": f"{shard:05d}{len(rows) + n:04d}", "status": "failed_to_download"} for n in range(failed)]
    pq.write_table(pa.Table.from_pylist([*rows, *lost]), root / f"{shard:05d}.parquet")
    statistics = {"count": len(rows) + failed, "successes": len(rows), "failed_to_download": failed}
    write(root, {f"{shard:05d}_stats.json": statistics})
    return root
