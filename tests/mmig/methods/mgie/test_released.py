"""The released layout (apple/ml-mgie) becomes an exported folder that computes what the released files say."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmig.backbones.parts import BackboneError
from mmig.language.sequences import VISUAL_TOKEN
from mmig.methods.mgie.__main__ import main
from mmig.methods.mgie.export import open_editor
from mmig.methods.mgie.pipeline import MGIEPipeline, MGIESampling
from mmig.methods.mgie.released import PROMPT, convert_released
from mmig.methods.mgie.writer import WriterConfig
from tests.mmig.methods.mgie.support import EXPRESSIVE, batch
from tests.tiny_fixtures import build_stable_diffusion
from tests.tiny_mgie_released import (
    IMAGE_TOKENS,
    MARKS,
    NUM_PATCHES,
    WIDTH,
    Released,
    ReleasedHead,
    build_released,
    llama_config,
)

LANGUAGE = WriterConfig(prompt=PROMPT)
INSTRUCTIONS = ["make it blue", "remove the largest shape"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return build_released(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion"))


def convert(files: Released, diffusion: str, out: Path, **changes: Any) -> Path:
    given = {"mllm": files.mllm, "unet": files.unet, "llava": files.llava, "backbone": diffusion, "out": out}
    return convert_released(**given | changes)


@pytest.fixture(scope="module")
def folder(files: Released, diffusion: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(files, diffusion, tmp_path_factory.mktemp("converted") / "mgie")


@pytest.fixture(scope="module")
def editor(folder: Path) -> MGIEPipeline:
    return open_editor(str(folder), language=LANGUAGE, sampling=MGIESampling(num_steps=2, max_new_tokens=4))


def weights(file: Path) -> dict[str, Tensor]:
    return {name: value.float() for name, value in torch.load(file, weights_only=True).items()}


def released_row(token: str, number: int, files: Released) -> int:
    """Where the released tables have a token: LLaMA's by their numbers, then the added ones as they were added."""
    added = (*MARKS, *IMAGE_TOKENS)
    return files.vocabulary + added.index(token) if token in added else number


def rows_of(editor: MGIEPipeline, files: Released) -> Tensor:
    """Released row of each of the editor's own."""
    vocabulary = editor.writer.tokenizer.get_vocab()
    by_number = {number: released_row(token, number, files) for token, number in vocabulary.items()}
    return torch.tensor([by_number[number] for number in range(len(by_number))])


def released_head(files: Released) -> ReleasedHead:
    head = ReleasedHead()
    state = weights(files.mllm)
    head.load_state_dict({n.removeprefix("edit_head."): v for n, v in state.items() if n.startswith("edit_head.")})
    return head.eval()


def by_the_released_weights(files: Released, rows: Tensor, ids: list[int], image: Tensor) -> tuple[Tensor, Tensor]:
    """Last hidden states and logits of one row of ids, by LLaMA and CLIP of transformers and one matrix between them.

    Args:
        ids: of the editor's vocabulary; `VISUAL_TOKEN` where a patch goes.
        image: [3,S,S] in [-1,1].
    """
    from transformers import CLIPImageProcessor, CLIPVisionModel, LlamaForCausalLM

    state = {}
    for file in sorted(files.llava.glob("*.bin")):
        state |= weights(file)
    llama = LlamaForCausalLM(llama_config(int(rows.max()) + 1)).eval()
    own = {name: value for name, value in state.items() if "mm_projector" not in name and "inv_freq" not in name}
    tables = {name: weights(files.mllm)[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    llama.load_state_dict(own | tables)
    processor = CLIPImageProcessor.from_pretrained(files.clip)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    tower = CLIPVisionModel.from_pretrained(files.clip).eval()
    patches = tower(((image[None] + 1) / 2 - mean) / std, output_hidden_states=True).hidden_states[-2][0, 1:]
    patches = patches @ state["model.mm_projector.weight"].T + state["model.mm_projector.bias"]
    embedded = llama.model.embed_tokens(rows[torch.tensor(ids).clamp(min=0)])
    embedded[torch.tensor(ids) == VISUAL_TOKEN] = patches
    hidden = llama.model(inputs_embeds=embedded[None]).last_hidden_state[0]
    return hidden, llama.lm_head(hidden)


def test_the_prompt_is_the_demos_with_the_picture_between_its_marks(editor: MGIEPipeline) -> None:
    writer = editor.writer
    (ids,) = writer.prompts(["make it blue"])
    numbers = dict(zip(MARKS, writer.tokenizer.convert_tokens_to_ids(list(MARKS)), strict=True))
    first = ids.index(VISUAL_TOKEN)
    assert ids[0] == writer.tokenizer.bos_token_id and ids.count(VISUAL_TOKEN) == NUM_PATCHES
    assert (ids[first - 1], ids[first + NUM_PATCHES]) == (numbers["<im_start>"], numbers["<im_end>"])
    assert writer.tokenizer.decode(ids[1 : first - 1]).endswith(
        "USER: what will this image be like if 'make it blue'\n"
    )
    assert writer.tokenizer.decode(ids[first + NUM_PATCHES + 1 :]).strip() == "ASSISTANT:"
    assert writer.tokenizer.decode(writer.image_ids) == "".join(IMAGE_TOKENS)


@torch.no_grad()
def test_states_loss_and_logits_are_those_of_the_released_weights(editor: MGIEPipeline, files: Released) -> None:
    writer, data, rows = editor.writer, batch(2), rows_of(editor, files)
    encoded = writer.encode(INSTRUCTIONS, EXPRESSIVE[:2])
    loss, states = writer(encoded, writer.visual_tokens(data["source"]))
    for row, (prompt, answer) in enumerate(zip(encoded.prompts, encoded.answers, strict=True)):
        hidden, logits = by_the_released_weights(files, rows, prompt + answer, data["source"][row])
        first = len(prompt) + len(answer) - 9  # the index of [IMG0] minus one
        torch.testing.assert_close(states[row], hidden[first : first + 8], rtol=1e-4, atol=1e-4)
        said = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
        nll = -said.gather(1, rows[torch.tensor(answer)][:, None]).mean()
        torch.testing.assert_close(loss.values[row], nll, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_it_writes_is_the_argmax_of_the_released_logits(editor: MGIEPipeline, files: Released) -> None:
    writer, data, rows = editor.writer, batch(2), rows_of(editor, files)
    written = writer.write(INSTRUCTIONS, writer.visual_tokens(data["source"]), 4)
    for row, (prompt, ids) in enumerate(zip(writer.prompts(INSTRUCTIONS), written.ids, strict=True)):
        _, logits = by_the_released_weights(files, rows, prompt + ids, data["source"][row])
        best = logits[len(prompt) - 1 : len(prompt) - 1 + len(ids)].argmax(dim=-1)
        assert ids and best.tolist() == rows[torch.tensor(ids)].tolist()


@torch.no_grad()
def test_guidance_is_that_of_torchs_transformer_on_the_released_weights(editor: MGIEPipeline, files: Released) -> None:
    head, embeddings, states = released_head(files), weights(files.mllm)["emb"], torch.randn(2, 8, WIDTH)
    rows = editor.writer.tokens.input_rows()
    assert torch.equal(rows, embeddings)
    torch.testing.assert_close(editor.head(states, rows), head(states, embeddings), rtol=1e-5, atol=1e-5)
    nothing = torch.zeros(1, 8, WIDTH)
    torch.testing.assert_close(editor.head(nothing, rows), head(nothing, embeddings), rtol=1e-5, atol=1e-5)


def test_the_denoiser_is_the_released_one(editor: MGIEPipeline, files: Released) -> None:
    state = weights(files.unet)
    found = editor.unet.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert editor.unet.config.in_channels == 8


def test_it_edits_and_says_how(editor: MGIEPipeline, folder: Path) -> None:
    data = batch(2)
    output = editor.edit(data["source"], INSTRUCTIONS, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert output.images.shape == data["source"].shape and output.images.isfinite().all()
    card = (folder / "README.md").read_text()
    assert "apple/ml-mgie (CC-BY-NC" in card and 'open_editor("mgie")' in card and "{" not in card.split("```")[-1]


def test_edit_py_takes_the_folder(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    import edit

    Image.new("RGB", (64, 64), "red").save(tmp_path / "in.png")
    options = ["--checkpoint", str(folder), "--image", str(tmp_path / "in.png"), "--instruction", "make it blue"]
    edit.main([*options, "--out", str(tmp_path / "out.png"), "--sampling", "num_steps=2", "max_new_tokens=3"])
    assert Image.open(tmp_path / "out.png").size == (64, 64)


@pytest.mark.parametrize(
    "known", [(), ("<im_end>", "[IMG3]", "<im_patch>"), ("[PAD]", *reversed(MARKS))], ids=["none", "some", "others"]
)
@torch.no_grad()
def test_rows_are_found_by_name_wherever_the_tokenizer_has_them(
    known: tuple[str, ...], diffusion: str, tmp_path: Path
) -> None:
    files = build_released(tmp_path, known=known)
    editor = open_editor(str(convert(files, diffusion, tmp_path / "out")), language=LANGUAGE)
    vocabulary, tables = editor.writer.tokenizer.get_vocab(), weights(files.mllm)
    theirs = {token: row for token, row in vocabulary.items() if token != "[PAD]"}
    for name, table in (
        ("model.embed_tokens.weight", editor.writer.llm.get_input_embeddings().weight),
        ("lm_head.weight", editor.writer.llm.get_output_embeddings().weight),
    ):
        expected = torch.stack([tables[name][released_row(token, row, files)] for token, row in theirs.items()])
        assert torch.equal(table[list(theirs.values())], expected)
    assert torch.equal(editor.writer.tokens.input_rows(), tables["emb"])


@torch.no_grad()
def test_the_head_keeps_embeddings_that_are_not_the_tables(
    files: Released, diffusion: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(files.mllm, weights_only=True)
    state["emb"] = 2 * state["emb"][None]  # the demo may have saved them with a batch before them
    torch.save(state, tmp_path / "mllm.pt")
    with caplog.at_level(logging.WARNING):
        out = convert(files, diffusion, tmp_path / "out", mllm=tmp_path / "mllm.pt")
    assert "emb is up to " in caplog.text
    editor, states = open_editor(str(out), language=LANGUAGE), torch.randn(1, 8, WIDTH)
    expected = released_head(files)(states, state["emb"].float())
    torch.testing.assert_close(editor.head(states, editor.writer.tokens.input_rows()), expected, rtol=1e-5, atol=1e-5)


def test_a_file_that_somebody_extracted_has_no_emb(files: Released, diffusion: str, tmp_path: Path) -> None:
    state = torch.load(files.mllm, weights_only=True)
    del state["emb"]
    torch.save(state, tmp_path / "mllm.pt")
    out = convert(files, diffusion, tmp_path / "out", mllm=tmp_path / "mllm.pt")
    assert open_editor(str(out), language=LANGUAGE).head.embeddings is None


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
    import shutil

    from tests.tiny_llava import build_llava

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
