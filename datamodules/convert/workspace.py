"""What a conversion has finished so far: `OUT/converting` while it runs, whole folders moved from there at its end.

A section counts as finished once its record is there, which is written after its shard has its name. So a killed
conversion loses the sections that it was writing, and nothing else; `OUT/SPLIT` appears whole or not at all. A split
without a name lies in `OUT` itself, and is complete once `index.json` is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.report import REPORT_FILE
from datamodules.convert.section import Section
from datamodules.convert.source import ConversionError, Finding, Findings, WrittenShard
from datamodules.keys import refuse_repeated_keys
from datamodules.shard_index import INDEX_FILE, ShardInfo, replace_file, write_index


@dataclass(frozen=True)
class Workspace:
    """The folders of one conversion; `out` is where its result will be, and `rank` which of its processes this is."""

    out: Path
    rank: int = 0
    num_ranks: int = 1

    @property
    def folder(self) -> Path:
        """There while the conversion is not finished."""
        return self.out / "converting"

    @property
    def own(self) -> Path:
        """The folder that this process alone may write to: all of `out`, or a place for its rank."""
        return self.out if self.num_ranks == 1 else self.folder / "ranks" / f"{self.rank:05d}"

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One rank after the other; waits for it."""
        if self.num_ranks == 1:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "turn.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def is_finished(self) -> bool:
        """Whether all is written and joined."""
        return (self.out / REPORT_FILE).exists()

    def begin(self, plan: dict[str, Any]) -> bool:
        """Begin or go on; False if the same conversion is finished already.

        Raises:
            ConversionError: the folder holds another conversion, finished or not, or something else.
        """
        with self.turn():
            return self._begin(plan)

    def _begin(self, plan: dict[str, Any]) -> bool:
        if self.is_finished():
            self._compare(plan, self.read_report()["plan"], "holds")
            self.tidy()  # if it was killed while tidying up
            return False
        if (self.folder / "plan.json").exists():
            self._compare(plan, json.loads((self.folder / "plan.json").read_bytes()), "is being filled by")
        else:
            for split in plan["items"]:
                if any(self.out.glob("*.tar")) if not split else (self.out / split).exists():
                    raise ConversionError(f"{self.out / split}: there already; remove it or choose another --out")
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / "plan.json", json.dumps(plan).encode())
        shutil.rmtree(self._scratch, ignore_errors=True)  # what a killed process was writing
        for split in plan["items"]:
            (self.folder / "records" / split).mkdir(parents=True, exist_ok=True)
            if not (self.out / split).exists():  # else it was moved there before the kill
                self.shards(split).mkdir(parents=True, exist_ok=True)
        self._scratch.mkdir(parents=True)
        return True

    @property
    def _scratch(self) -> Path:
        return (self.folder if self.num_ranks == 1 else self.own) / "scratch"

    def shards(self, split: str) -> Path:
        """Where the shards of a split are until it is finished."""
        return self.folder / "shards" / split if split else self.out

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder of this process's own; one that outlives its killed parent a little shares none with others."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            yield Path(folder)

    def keep(self, section: Section, written: WrittenShard) -> None:
        """Note that a section is finished."""
        record = {
            "row": asdict(written.row) if written.row else None,
            "dropped": dict(sorted(written.findings.dropped.items())),
            "kept": dict(sorted(written.findings.kept.items())),
            "examples": written.findings.examples,
            "counted": dict(sorted(written.findings.counted.items())),
        }
        replace_file(self._record(section), json.dumps(record).encode())

    def finished(self, section: Section) -> WrittenShard | None:
        """What came of a section, or None if it is still to be done."""
        path = self._record(section)
        if not path.exists():
            return None
        record = json.loads(path.read_bytes())
        row = ShardInfo(**record["row"]) if record["row"] else None
        examples = [Finding(*example) for example in record["examples"]]
        dropped, kept, counted = (Counter(record.get(name, {})) for name in ("dropped", "kept", "counted"))
        return WrittenShard(row, Findings(dropped, kept, examples, counted))

    def is_whole(self, section: Section, written: WrittenShard, in_place: bool) -> bool:
        """Whether the files of a finished section are still there, in their full length."""
        row, folder = written.row, self.shards(section.split)
        if row is None or not folder.exists():  # nothing was kept, or the split was moved to its place already
            return True
        tar = folder / row.name
        return tar.with_suffix(".idx").is_file() and (in_place or (tar.is_file() and tar.stat().st_size == row.bytes))

    def publish(self, split: str, rows: list[ShardInfo]) -> None:
        """Give a split, all of whose sections are finished, its index and its place. Harmless the second time.

        Raises:
            ShardError: a key comes twice.
        """
        folder = self.shards(split)
        if not folder.exists() and (self.out / split / INDEX_FILE).exists():
            return
        if rows:
            tars = [folder / row.name for row in rows]
            refuse_repeated_keys(tars, [tar.with_suffix(".idx") for tar in tars])
        write_index(folder, tuple(rows))
        if split:
            os.rename(folder, self.out / split)

    def read_report(self) -> dict[str, Any]:
        """The report of a finished conversion."""
        return json.loads((self.out / REPORT_FILE).read_bytes())

    def end(self, report: dict[str, Any]) -> None:
        """Write the report, which makes the conversion finished, and tidy up."""
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        # a name that is no UTF-8 is half a character to Python; a backslash before it is how JSON writes that
        replace_file(self.out / REPORT_FILE, text.encode("utf-8", "backslashreplace"))
        self.tidy()

    def tidy(self) -> None:
        """Remove what was only needed on the way; other ranks may still be letting go of theirs in there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, section: Section) -> Path:
        return self.folder / "records" / section.split / f"{section.number:06d}.json"

    def _compare(self, plan: dict[str, Any], there: dict[str, Any], verb: str) -> None:
        mine, theirs = _flat(json.loads(json.dumps(plan))), _flat(there)
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                raise ConversionError(
                    f"{self.out}: {verb} a conversion whose {name} is {theirs.get(name)!r}, now it is "
                    f"{mine.get(name)!r}; give the same settings and source, or another --out"
                )


def _flat(plan: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A plan with the entries of each mapping in it under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in plan.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
