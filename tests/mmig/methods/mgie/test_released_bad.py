"""What a released MGIE lacks, has too much of, or hides is said in one line, and nothing is written."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.backbones.parts import BackboneError
from mmig.methods.mgie.__main__ import main
from tests.mmig.methods.mgie.support import convert
from tests.tiny_llava import build_llava
from tests.tiny_mgie_released import Released


class Command:
    """A file that would run a program."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.file}'",)


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.pop(name)


def narrower(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state.update({name: state[name][..., :-1].clone()})


BAD = [
    ("mllm", without("lm_head.weight"), r"expected lm_head\.weight, found none among its \d+ weights"),
    ("mllm", without("edit_head.query"), r"expected edit_head\.query, found none"),
    ("mllm", without("edit_head.hid2feat.bias"), r"EditHead, found 1 missing \(edit_head\.hid2feat\.bias\)"),
    ("mllm", narrower("model.embed_tokens.weight"), r"embed_tokens\.weight is 15 wide, but LLaVA's is 16"),
    ("mllm", narrower("edit_head.mapper.decoder.norm.weight"), r"decoder\.norm\.weight \(7,\) instead of \(8,\)"),
    ("mllm", narrower("edit_head.llm2hid.weight"), r"makes 32 numbers of 15, but the tables have 16"),
    ("mllm", narrower("emb"), r"emb: expected shape \(8, 16\), found \(8, 15\)"),
    ("mllm", lambda s: s.update(more=torch.zeros(1)), r"found 1 unexpected \(more\)"),
    (
        "mllm",
        lambda s: s.update({"lm_head.weight": s["lm_head.weight"][1:]}),
        r"lm_head\.weight has \d+ rows, those of 11",
    ),
    ("mllm", lambda s: s.update(step=3), r"expected tensors by their names, found Tensor, int"),
    ("unet", without("conv_out.bias"), r"UNet2DConditionModel, found 1 missing \(conv_out\.bias\)"),
    ("unet", without("conv_in.weight"), r"expected conv_in\.weight, found none"),
    (
        "unet",
        lambda s: s.update({"conv_in.weight": s["conv_in.weight"][:, :4].clone()}),
        r"in_channels|expected a conv_in of 8 channels, which sees the picture too, found 4",
    ),
]


@pytest.mark.parametrize(("which", "change", "words"), BAD)
def test_what_is_missing_extra_or_of_another_shape_is_one_line(
    files: Released, diffusion: str, tmp_path: Path, which: str, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    state = torch.load(getattr(files, which), weights_only=True)
    change(state)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(BackboneError, match=words) as caught:
        convert(files, diffusion, tmp_path / "out", **{which: tmp_path / "bad.pt"})
    assert str(caught.value).startswith(f"{tmp_path / 'bad.pt'}: ") and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_a_program_in_a_file_is_not_run(files: Released, diffusion: str, tmp_path: Path) -> None:
    torch.save({"emb": Command(tmp_path / "ran")}, tmp_path / "bad.pt")
    for which in ("mllm", "unet"):
        with pytest.raises(BackboneError, match=r"bad\.pt: cannot be read as weights: .*; fetch the file again$"):
            convert(files, diffusion, tmp_path / "out", **{which: tmp_path / "bad.pt"})
    assert not (tmp_path / "ran").exists()
    with pytest.raises(BackboneError, match=r"no\.pt: expected a file of weights, found none"):
        convert(files, diffusion, tmp_path / "out", mllm=tmp_path / "no.pt")


def test_another_llava_is_refused(files: Released, diffusion: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"config\.json: expected mm_vision_tower, as LLaVA's original code"):
        convert(files, diffusion, tmp_path / "out", llava=build_llava(tmp_path / "new"))
    shard = "pytorch_model-00002-of-00002.bin"
    for number, (change, words) in enumerate(
        (
            (without("model.mm_projector.bias"), r"expected model\.mm_projector\.bias, found none"),
            (
                lambda s: s.update({"model.mm_projector.0.weight": torch.zeros(1)}),
                "found the layers of a later version",
            ),
            (
                lambda s: s.update({"model.layers.0.more": torch.zeros(1)}),
                r"1 unexpected \(model\.language_model\.layers",
            ),
        )
    ):
        copy = shutil.copytree(files.llava, tmp_path / f"llava{number}")
        for file in (copy / shard, copy / shard.replace("00002-", "00001-")):
            state = torch.load(file, weights_only=True)
            if number or "model.mm_projector.bias" in state:
                change(state)
            torch.save(state, file)
        with pytest.raises(BackboneError, match=words):
            convert(files, diffusion, tmp_path / "out", llava=copy)


def test_the_command_writes_the_folder_once(
    files: Released, diffusion: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--mllm": files.mllm, "--unet": files.unet, "--llava": files.llava, "--backbone": diffusion}
    command = ["convert-released", *(str(word) for pair in given.items() for word in pair), "--out"]
    out = str(tmp_path / "out")
    assert main([*command, out, "--vision", str(files.clip), "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == f"{files.mllm} and {files.unet} -> {out}\n"
    assert "dtype: bfloat16" in (tmp_path / "out/editor.yaml").read_text()
    assert main([*command, out]) == 1
    assert capsys.readouterr().err == f"error: {out}: exists already; give a new folder\n"
