"""Released weights by their published names, in tiny files: every number in its place, and what compensates it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmig.methods.instruct_any2pix.__main__ import main
from mmig.methods.instruct_any2pix.aesthetic import AestheticPredictor
from mmig.methods.instruct_any2pix.decoder import load_decoder
from mmig.methods.instruct_any2pix.prior import load_prior
from mmig.methods.instruct_any2pix.projectors import cross_attentions, load_projector
from mmig.methods.instruct_any2pix.reader import ReaderConfig, load_reader
from mmig.methods.instruct_any2pix.slots import Slot
from tests.mmig.methods.instruct_any2pix.support import WIDTH, path, unit
from tests.tiny_sdxl import CONTEXT, POOLED

ADDED = ["<im_gen_start>", "<im_gen>", "<mask_gen>", "<audio_gen>", "<audio_gen_start>", "<audio>", "<video>"]
ADDED += ["<base>", "<base_null>"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def released_prior(width: int = 64) -> dict[str, torch.Tensor]:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    gpt = GPT2Model(GPT2Config(vocab_size=11, n_embd=width, n_layer=2, n_head=1))
    state = {f"model.{name}": value.clone() for name, value in gpt.state_dict().items()}
    for name, rows in (("start_of_sequence_tokens", 32), ("end_of_sequence_tokens", 32), ("modality_embedding", 10)):
        state[f"{name}.weight"] = drawn(rows, width)
    for number, given in ((1, width), (2, 24), (3, 32)):
        state |= {f"input_sequence_embed_linear.{number}.weight": drawn(width, given)}
        state |= {f"input_sequence_embed_linear.{number}.bias": drawn(width)}
    return state | {"cond_stage_models.0.model.text_projection": drawn(4, 4)}


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


@torch.no_grad()
def test_the_prior_reads_type_vector_and_score_between_their_own_tokens(tmp_path: Path):
    state = released_prior()
    torch.save(state, tmp_path / "model.bin")
    assert run("convert-prior", tmp_path / "model.bin", "--out", tmp_path / "out") == 0
    prior = load_prior(str(tmp_path / "out"))
    vectors = unit(1, 64)
    angles = 6.5 * torch.exp(-torch.arange(16) / 16 * torch.log(torch.tensor(10000.0)))
    score = torch.cat([angles.cos(), angles.sin()])

    def linear(number: int, given: torch.Tensor) -> torch.Tensor:
        name = f"input_sequence_embed_linear.{number}"
        return given @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def wrapped(number: int, token: torch.Tensor) -> list[torch.Tensor]:
        around = [state[f"{name}_of_sequence_tokens.weight"][number] for name in ("start", "end")]
        return [around[0], token, around[1]]

    tokens = [state["modality_embedding.weight"][2], *wrapped(1, linear(1, 100 * vectors[0]))]
    tokens += wrapped(3, linear(3, score))
    hidden = prior.transformer(inputs_embeds=torch.stack(tokens)[None]).last_hidden_state[:, -1]
    kinds = torch.tensor([2]), torch.tensor([0])
    expected = hidden / hidden.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(prior.refine(vectors, *kinds, 6.5), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """llm-retrained/ in its layout."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("released") / "llm-retrained"
    tokenizer = AutoTokenizer.from_pretrained(path("llama"))
    tokenizer.add_tokens(ADDED, special_tokens=True)
    llm = LlamaForCausalLM.from_pretrained(path("llama"))
    llm.resize_token_embeddings(len(tokenizer))
    width = llm.config.hidden_size
    state = {name: value.clone() for name, value in llm.state_dict().items()}
    for kind in ("image", "audio"):
        for layer, given in ((0, WIDTH), (2, width)):
            state |= {f"model.vae_projector_{kind}.{layer}.weight": drawn(width, given, seed=layer)}
            state |= {f"model.vae_projector_{kind}.{layer}.bias": drawn(width, seed=layer)}
        for layer, given in ((0, width), (2, WIDTH)):
            state |= {f"model.vae_predictor_{kind}.{layer}.weight": drawn(given, width, seed=layer)}
            state |= {f"model.vae_predictor_{kind}.{layer}.bias": drawn(given, seed=layer)}
    state |= {"model.mm_projector.weight": drawn(3, 3), "model.vision_tower.a": drawn(2)}
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**llm.config.to_dict(), "model_type": "instructany2pix", "architectures": ["Other"]}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@torch.no_grad()
def test_the_language_model_adds_vectors_of_length_20_to_the_slots_own_embedding(language: Path, tmp_path: Path):
    assert run("convert-language", language, "--out", tmp_path / "out") == 0
    settings = json.loads((tmp_path / "out" / "language.json").read_text())
    config = ReaderConfig(max_length=64, **settings)
    reader = load_reader(str(tmp_path / "out"), str(tmp_path / "out"), WIDTH, config)
    state = load_file(language / "model.safetensors")
    projectors = load_file(tmp_path / "out" / "vector_projectors" / "diffusion_pytorch_model.safetensors")
    reader.projectors.load_state_dict(projectors)
    vectors = unit(1, 1, WIDTH)
    ids = torch.tensor([reader.prompt_ids([[Slot(0)]])[0]])
    found = reader.embed(ids, vectors)[ids == -1][0]
    name = "model.vae_projector_image"
    hidden = torch.nn.functional.gelu(20 * vectors[0, 0] @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
    entered = hidden @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"]
    slot = reader.tokenizer.convert_tokens_to_ids("<video>")
    expected = state["model.embed_tokens.weight"][slot] + entered
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reader.projectors.leave[2].weight, state["model.vae_predictor_image.2.weight"])
    answer = reader.tokenizer.convert_ids_to_tokens(reader.answer_ids([5, 6]))
    assert answer == ["<base>", "<video>", "<im_gen_start>", "<im_gen>"]
    assert reader.write([[Slot(0)]], vectors, 3).ids == [[]]


@torch.no_grad()
def test_the_first_decoder_has_its_two_projectors_among_the_unets_weights(tmp_path: Path):
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(path("sdxl"), subfolder="unet")
    state = {name: value.clone().contiguous() for name, value in unet.state_dict().items()}
    for name, given, out in (("projector_unclip", WIDTH, CONTEXT), ("projector_unclip2", 12, POOLED)):
        state |= {f"{name}.0.weight": drawn(24, given), f"{name}.0.bias": drawn(24)}
        state |= {f"{name}.2.weight": drawn(out, 24), f"{name}.2.bias": drawn(out)}
    unet.save_pretrained(tmp_path / "unet")
    save_file(state, tmp_path / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    assert run("convert-decoder", tmp_path / "unet", "--backbone", path("sdxl"), "--out", tmp_path / "out") == 0
    decoder = load_decoder(str(tmp_path / "out"), WIDTH)
    condition = decoder.branches(unit(2, WIDTH), (64, 64))["full"]
    constant = torch.nn.functional.gelu(state["projector_unclip2.0.bias"])
    pooled = constant @ state["projector_unclip2.2.weight"].T + state["projector_unclip2.2.bias"]
    torch.testing.assert_close(condition.pooled, pooled.expand(2, -1), atol=1e-5, rtol=1e-5)
    hidden = torch.nn.functional.gelu(
        20 * unit(2, WIDTH) @ state["projector_unclip.0.weight"].T + state["projector_unclip.0.bias"]
    )
    tokens = hidden @ state["projector_unclip.2.weight"].T + state["projector_unclip.2.bias"]
    torch.testing.assert_close(condition.tokens[:, 0], tokens, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("view", "number", "share"), [("whole", 0, 1.0), ("part", 1, 0.5)])
def test_the_last_decoders_view_embedding_is_added_before_the_norm(
    view: str, number: int, share: float, tmp_path: Path
):
    decoder = load_unet_of_sdxl()
    layers = cross_attentions(decoder)
    order = [name for name in decoder.attn_processors if name.endswith("attn2.processor")]
    heads = {f"{name}.processor": module.to_q.out_features for name, module in layers.items()}
    adapter = {
        f"{2 * place + 1}.to_{kind}_ip.weight": drawn(heads[name], CONTEXT, seed=place)
        for place, name in enumerate(order)
        for kind in "kv"
    }
    proj = {"proj.weight": drawn(4 * CONTEXT, WIDTH), "proj.bias": drawn(4 * CONTEXT)}
    proj |= {"norm.weight": 1 + drawn(CONTEXT), "norm.bias": drawn(CONTEXT), "raw_embed": drawn(2, CONTEXT)}
    torch.save({"image_proj": proj, "ip_adapter": adapter}, tmp_path / "ip.bin")
    out = tmp_path / "out"
    words = ("--backbone", path("sdxl"), "--view", view)
    assert run("convert-ip-adapter", tmp_path / "ip.bin", *words, "--out", out) == 0
    projector: Any = load_projector(str(out))

    def tokens(vector: torch.Tensor) -> torch.Tensor:
        own, whole = (x @ proj["proj.weight"].T + proj["proj.bias"] for x in (vector, torch.zeros_like(vector)))
        seen = (share * own + (1 - share) * whole).view(1, 4, CONTEXT) + proj["raw_embed"][number]
        return torch.nn.functional.layer_norm(seen, (CONTEXT,), proj["norm.weight"], proj["norm.bias"])

    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(projector(unit(1, WIDTH)).tokens[:, -4:], tokens(20 * unit(1, WIDTH)), **close)
    torch.testing.assert_close(projector.null(1).tokens[:, -4:], tokens(torch.zeros(1, WIDTH)), **close)
    for place, name in enumerate(layers):
        key = f"{2 * order.index(f'{name}.processor') + 1}.to_k_ip.weight"
        assert torch.equal(projector.layers[place].to_k_ip[0].weight, adapter[key])


def load_unet_of_sdxl() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(path("sdxl"), subfolder="unet")


def test_the_aesthetic_predictor_keeps_its_names(tmp_path: Path):
    state = AestheticPredictor(24).state_dict()
    torch.save(dict(state), tmp_path / "linear.pth")
    assert run("convert-aesthetic", tmp_path / "linear.pth", "--out", tmp_path / "out") == 0
    again = AestheticPredictor.from_pretrained(tmp_path / "out" / "aesthetic")
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_a_file_without_the_released_names_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save({"a": torch.zeros(2)}, tmp_path / "model.bin")
    assert run("convert-prior", tmp_path / "model.bin", "--out", tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "expected project_vector.weight, found none" in lines[0]
    assert not (tmp_path / "out").exists()
