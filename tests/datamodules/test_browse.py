"""A folder of shards as a page: what it shows, that it harms nobody, and the counts behind it."""

from __future__ import annotations

import base64
import io
import multiprocessing
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.browse.__main__ import main
from datamodules.browse.charts import WIDTH, bars, escape, median
from datamodules.browse.places import draw
from datamodules.browse.survey import BAD_EXAMPLES, Survey, survey
from datamodules.browse.thumbnails import SIDE, data_address, make_card, shorten
from datamodules.faults import REASONS
from datamodules.schema import Sample
from datamodules.shard_index import ShardIndex
from datamodules.shards import ShardError, write_shards
from tests.datamodules.make_samples import make_image, sound
from tests.datamodules.range_server import serving

SOUND = sound(kind="FLAC")
WORD = "image, subject, characters 5-11: 12 x 12 pixels"
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Texts, attributes and tags of a page; every element must be closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def _sample(number: int) -> Sample:
    image, mask = make_image(number, 24), make_image(number, 24, channels=1)
    return {
        "key": f"{number:04d}",
        "source": image.resize((48, 24)) if number % 4 == 0 else image,
        "target": image.resize((48, 24)) if number % 4 == 0 else image,
        "instruction": f"make sphere {number} red" if number else EVIL,
        "edit_type": ("add", "remove")[number % 3 == 0],
        "target_mask": mask.resize((48, 24)) if number % 4 == 0 else mask,
        "concepts": [{"phrase": "a red cat", "mask": mask}] if number % 4 else [],
        "attachments": [
            {"kind": "audio", "data": SOUND, "role": "style", "format": "flac"},
            {"kind": "image", "data": make_image(9, 12), "role": "subject", "word": [5, 11]},
        ],
        "metadata": {"note": EVIL, "number": number},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 samples in shards of 8, two of them damaged."""
    folder = tmp_path_factory.mktemp("browse") / "data" / "train"
    index = write_shards(map(_sample, range(50)), folder, 8)
    content = bytearray(index.tar_path("00001.tar").read_bytes())
    place = content.index(b'"instruction"')
    content[place : place + 4] = b"????"
    index.tar_path("00001.tar").write_bytes(content)
    members = index.open_members(6).members(0)
    tar = index.tar_path("00006.tar")
    tar.write_bytes(tar.read_bytes()[: members[0].offset + 20])  # both of its samples
    return folder


def _page(folder: Path, out: Path, *options: str) -> str:
    assert main([str(folder), "--out", str(out), "--workers", "0", *options]) == 0
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return _page(folder, tmp_path_factory.mktemp("page") / "page.html")


def test_the_page_shows_samples_with_pictures_masks_and_every_text(page: str) -> None:
    reader = Reader(page)
    assert reader.tags["article"] == 47  # 50 but for three bad ones
    alts = Counter(value for tag, name, value in reader.attributes if (tag, name) == ("img", "alt"))
    assert alts["source"] == alts["target"] == alts["target_mask"] == 47 and alts["mask of concept 0"] > 30
    for text in (
        "make sphere 7 red",
        "a red cat",
        f"audio, style: 0.25 s, 16,000 samples/s, 1 channel, {len(SOUND):,} bytes",
        WORD,
        '"number": 7',
    ):
        assert text in reader.text
    assert alts["attachment 1"] == reader.tags["audio"] == 47
    assert "48×24" in reader.text and "24×24" in reader.text


def test_the_page_counts_edit_types_fields_and_bad_samples_by_reason(page: str) -> None:
    text = Reader(page).text
    kinds = Counter(_sample(n)["edit_type"] for n in range(50) if n not in (8, 48, 49))
    assert all(kind in text and f"{count} ({count / 47:.1%})" in text for kind, count in kinds.items())
    assert "50 samples in 7 shards" in text and "Read: all of them; 3 bad (6.00%)" in text
    assert "00006.tar: 2" in text and "00001.tar: 1" in text and "0008: json: wrong checksum" in text
    assert REASONS["truncated"] in text and REASONS["checksum"] in text
    assert "47 (100%)" in text  # samples that have an instruction


def test_the_page_says_how_large_images_and_how_long_texts_are(page: str) -> None:
    rows = Reader(page).text
    assert "Shorter side of images, pixels\n94\n24\n24\n24\n" in rows
    assert "Width of images, % of their height\n94\n100\n100\n200\n" in rows
    lengths = sorted(len(_sample(n)["instruction"]) for n in range(50) if n not in (8, 48, 49))
    assert f"Length of instruction, characters\n47\n{lengths[0]}\n{lengths[23]}\n{lengths[-1]}\n" in rows
    assert "Length of response" not in rows


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(page: str) -> None:
    reader = Reader(page)
    assert not reader.tags.keys() & {"script", "iframe", "object", "embed", "link", "form", "base"}
    assert all(not name.startswith("on") for _, name, _ in reader.attributes)
    addresses = [value for _, name, value in reader.attributes if name in ("src", "href", "srcset", "action", "data")]
    assert addresses and all(value.startswith(("data:image/", "data:audio/flac;", "#")) for value in addresses)
    assert "http:" not in page and "https:" not in page and "url(" not in page
    assert any("default-src 'none'" in value for tag, name, value in reader.attributes if tag == "meta")


def test_texts_of_the_data_stay_texts(page: str) -> None:
    assert EVIL in Reader(page).text and "<script" not in page
    assert escape("a\0b<c>&\"'\x1b\ud800") == "a\ufffdb&lt;c&gt;&amp;&quot;&#x27;\ufffd?"


def test_the_same_folder_gives_the_same_bytes_whatever_the_number_of_workers(
    folder: Path, page: str, tmp_path: Path
) -> None:
    assert _page(folder, tmp_path / "again.html") == page
    assert main([str(folder), "--out", str(tmp_path / "two.html"), "--workers", "2"]) == 0
    assert (tmp_path / "two.html").read_text(encoding="utf-8") == page


def test_a_part_is_read_and_shown_evenly_spread(folder: Path, tmp_path: Path) -> None:
    index = ShardIndex.load(folder)
    found = Survey()
    for part in survey(index, 20, 5, seed=1):
        found.merge(part)
    shown = [int(found.cards[number].key) for number in sorted(found.cards)]
    assert found.read == 20 and len(shown) == 5 and shown == sorted(shown)
    text = Reader(_page(folder, tmp_path / "page.html", "--read", "20", "--limit", "5")).text
    assert "Read: 20 of them, spread evenly" in text


@pytest.mark.parametrize("limit", [1, 7, 25, 46, 47])
@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_as_many_samples_are_shown_as_were_asked_for_while_there_are_good_ones(
    limit: int, seed: str, folder: Path, tmp_path: Path
) -> None:
    _break(shutil.copytree(folder, tmp_path / "data"), "00003.tar", "00004.tar")
    options = ("--limit", str(limit), "--seed", seed)
    reader = Reader(_page(tmp_path / "data", tmp_path / "page.html", *options))
    assert reader.tags["article"] == min(limit, 47 - 16)


def test_a_process_that_is_killed_is_one_line(folder: Path) -> None:
    others = set(multiprocessing.active_children())
    parts = survey(ShardIndex.load(folder), 0, 1, seed=0, workers=1)
    next(parts)
    (process,) = set(multiprocessing.active_children()) - others
    process.kill()
    with pytest.raises(ShardError, match="a process that reads was killed"):
        list(parts)


def test_where_all_samples_are_bad_none_is_shown_and_each_is_read_once(folder: Path, tmp_path: Path) -> None:
    shards = [row.name for row in ShardIndex.load(folder).shards]
    _break(shutil.copytree(folder, tmp_path / "data"), *shards)
    reader = Reader(_page(tmp_path / "data", tmp_path / "page.html", "--limit", "5"))
    assert reader.tags["article"] == 0 and "50 bad (100.00%)" in reader.text


def _break(folder: Path, *names: str) -> None:
    """Make every sample of some shards bad."""
    for name in names:
        (folder / name).write_bytes(bytes((folder / name).stat().st_size))


@pytest.mark.parametrize(("total", "count"), [(100, 10), (7, 6), (5, 5), (5, 9), (5, 0)])
def test_a_draw_takes_one_from_each_equal_part(total: int, count: int) -> None:
    drawn = list(draw(total, count, 3))
    assert drawn == sorted(set(drawn)) and len(drawn) == (count if 0 < count < total else total)
    if 0 < count < total:
        assert all(total * part // count <= place < total * (part + 1) // count for part, place in enumerate(drawn))


def test_what_is_kept_does_not_grow_with_the_data() -> None:
    found = Survey()
    for number in range(3000):
        found.add({"key": "a", "instruction": "x", "edit_type": f"kind {number}"})
        found.add_bad({"reason": "json", "shard": "0.tar", "key": f"{number}", "detail": "x"})
    assert len(found.edit_types) == 1001 and found.edit_types["(others)"] == 2000
    assert len(found.examples["json"]) == BAD_EXAMPLES and found.bad["json", "0.tar"] == 3000
    assert shorten("x" * 5000).startswith("x" * 4000 + " ... (5,000 characters)")


def test_pictures_are_small_and_masks_keep_their_edges() -> None:
    def decoded(address: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))

    mask = Image.fromarray((np.arange(1000) % 2 * 255).astype(np.uint8)[None].repeat(500, 0))
    large = decoded(data_address(make_image(0, 24).resize((1000, 500))))
    assert large.size == (SIDE, SIDE // 2) and large.format == "JPEG"
    assert set(np.unique(np.asarray(decoded(data_address(mask))))) <= {0, 255}
    assert decoded(data_address(make_image(0, 24))).size == (24, 24)
    many: Sample = {"key": "a", "concepts": [{"phrase": f"{n}", "mask": mask} for n in range(40)]}
    assert len(make_card(many, "0.tar").pictures) == 16


@pytest.mark.parametrize("values", [[5], [1, 2], [3] * 100 + [10**6], list(range(500)), [7, 7, 9, 1000, 1001]])
def test_the_median_is_the_middle_value_or_the_lower_one_of_two(values: list[int]) -> None:
    assert median(Counter(values)) == sorted(values)[(len(values) - 1) // 2]


def test_bars_keep_within_their_width() -> None:
    chart = bars(Counter({f"kind {n} {'x' * 60}": 100 - n for n in range(60)}))
    edges = [float(x) + float(w) for x, w in re.findall(r'x="([\d.]+)"[^>]*? width="([\d.]+)"', chart)]
    assert edges and max(edges) <= WIDTH
    assert "20 further ones" in chart


def test_a_folder_of_splits_asks_for_one(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main([str(folder.parent), "--out", str(out)]) == 1
    assert capsys.readouterr().err.strip().endswith("expected index.json, found none; choose with --split: train")
    assert main([str(folder.parent), "--split", "train", "--out", str(out), "--workers", "0", "--limit", "1"]) == 0
    assert "50 samples read" in capsys.readouterr().out


def test_what_cannot_be_read_or_written_is_one_line_and_keeps_the_old_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    shutil.copytree(folder, tmp_path / "stale")
    shutil.copy(tmp_path / "stale/00006.idx", tmp_path / "stale/00000.idx")
    for directory, target in (("nowhere", out), ("stale", out)):
        assert main([str(tmp_path / directory), "--out", str(target), "--workers", "0"]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main([str(folder), "--out", str(tmp_path / "no/page.html"), "--workers", "0"]) == 1
    assert out.read_text() == "old" and [path.name for path in tmp_path.glob("*.incomplete")] == []
    with pytest.raises(SystemExit):
        main([str(folder), "--out", str(out), "--limit", "-1"])
    assert "--limit: expected 0 or more, found -1" in capsys.readouterr().err


def test_shards_behind_a_url_can_be_looked_at(folder: Path, tmp_path: Path) -> None:
    with serving(folder) as server:
        assert main([server.url, "--out", str(tmp_path / "page.html"), "--limit", "3"]) == 0
    assert "3 bad" in (tmp_path / "page.html").read_text()


def test_an_empty_folder_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/index.json").write_text('{"format": "mmig-shards-1", "shards": []}')
    assert "0 samples in 0 shards" in Reader(_page(tmp_path / "data", tmp_path / "page.html")).text
