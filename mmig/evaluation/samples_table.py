"""samples.parquet: the rows of samples.jsonl as a table that pandas, DuckDB and the like read at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmig.base.files import replacing
from mmig.evaluation.rows import SampleRow

BEFORE = ("system", "dataset", "split", "key", "seed", "edit_type")
BEHIND = ("instruction", "text")


def write_samples_table(path: Path, system: str, report: Mapping[str, Any], rows: Sequence[SampleRow]) -> None:
    """Write one row an edit, in the order of `rows`: the columns of `BEFORE`, one a metric (float64, null where it was
    skipped), those of `BEHIND`.

    Args:
        path: the file.
        system: what was scored; the column of that name.
        report: content of metrics.json, of which the data's configuration (its name without ".yaml") and split are
            taken.
        rows: of one evaluation, all with the same metrics. A metric that is called as another column is "metric_NAME".
    """
    import pyarrow as pa  # here, for it is slow to import and only the end of an evaluation needs it
    import pyarrow.parquet as pq

    data = report.get("data") or {}
    count, dataset = len(rows), Path(data["config"]).stem if "config" in data else data.get("class_path", "")
    columns: dict[str, Any] = {
        "system": pa.array([system] * count, pa.string()),
        "dataset": pa.array([dataset] * count, pa.string()),
        "split": pa.array([report.get("split", "")] * count, pa.string()),
        "key": pa.array([row.key for row in rows], pa.string()),
        "seed": pa.array([row.seed for row in rows], pa.int64()),
        "edit_type": pa.array([row.edit_type for row in rows], pa.string()),
    }
    for name in rows[0].values if rows else ():
        column = f"metric_{name}" if name in (*BEFORE, *BEHIND) else name
        columns[column] = pa.array([row.values[name] for row in rows], pa.float64())
    for name in BEHIND:
        columns[name] = pa.array([getattr(row, name) for row in rows], pa.string())
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
