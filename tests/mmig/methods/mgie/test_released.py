"""The released layout (apple/ml-mgie) becomes an exported folder that computes what the released files say."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmig.language.sequences import VISUAL_TOKEN
from mmig.methods.mgie.export import open_editor
from mmig.methods.mgie.head import EditHead
from mmig.methods.mgie.pipeline import MGIEPipeline, MGIESampling
from mmig.methods.mgie.released import PROMPT, _released_name
from mmig.methods.mgie.writer import WriterConfig
from tests.mmig.methods.mgie.support import EXPRESSIVE, batch, convert
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


def test_the_published_heads_names_and_numbers_are_the_released_ones() -> None:
    """Those of torch's transformer and two projections at the sizes of the released code."""
    with torch.device("meta"):
        mapper = torch.nn.Transformer(512, 4, 4, 4, 2048, dropout=0.0, batch_first=True, norm_first=True)
        ours = EditHead().state_dict()
    sizes = {"llm2hid.weight": (512, 4096), "llm2hid.bias": (512,), "query": (1, 77, 512)}
    sizes |= {"hid2feat.weight": (768, 512), "hid2feat.bias": (768,)}
    sizes |= {f"mapper.{name}": tuple(value.shape) for name, value in mapper.state_dict().items()}
    assert {_released_name(name): tuple(value.shape) for name, value in ours.items()} == {
        f"edit_head.{name}": size for name, size in sizes.items()
    }
    assert sum(math.prod(size) for size in sizes.values()) == 31_958_784


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
