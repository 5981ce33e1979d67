"""The released checkpoints of InstructAny2Pix by their names of weights, written as folders of ours.

    python -m mmig.methods.instruct_any2pix convert-prior prior/model.bin --out DIR
    python -m mmig.methods.instruct_any2pix convert-language llm-retrained --out DIR
    python -m mmig.methods.instruct_any2pix convert-decoder sdxl/unet --backbone SDXL --out DIR
    python -m mmig.methods.instruct_any2pix convert-ip-adapter FILE --backbone SDXL [--view part] --out DIR
    python -m mmig.methods.instruct_any2pix convert-aesthetic FILE --out DIR

Names and shapes alone are known here: that repository has no licence, and none of its code is used. Of what it gives
the parts that are used at inference are taken; what our classes do otherwise is written into the weights where it can
be: vectors of length 20, and a slot's own embedding, which it keeps beside the vector.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmig.backbones.diffusion import load_scheduler, load_unet, load_vae
from mmig.backbones.files import new_folder, read_json, weight_files
from mmig.backbones.parts import BackboneError
from mmig.backbones.weights import fill, read_weights, weight
from mmig.base.files import write_json
from mmig.diffusion.saving import save_parts
from mmig.diffusion.sdxl import TextCondition, pooled_width
from mmig.methods.instruct_any2pix.aesthetic import AestheticPredictor
from mmig.methods.instruct_any2pix.decoder import Decoder, check_projector, save_decoder
from mmig.methods.instruct_any2pix.prior import RefinementPrior
from mmig.methods.instruct_any2pix.projectors import EmbeddingProjector, IPAdapterProjector, cross_attentions
from mmig.methods.instruct_any2pix.reader import VectorProjectors

ABOUT = "InstructAny2Pix: {} of the released weights."
NORM = 20.0
"""Length of every vector of the released system, and of those that its language model says."""
PRIOR_NORM = 100.0
"""Length of the vectors that its prior is given."""
SLOT = "<video>"
RELEASED_LANGUAGE = {
    "base_token": "<base>",
    "gen_token": "<im_gen>",
    "answer": f"{{base}}{SLOT}<im_gen_start>{{gen}}",
    "vector_norm": NORM,
}
"""Settings `language` for the released weights, read without a caption in the answer, at `<im_gen>`."""
_PRIOR = {
    "modality_embedding": "types",
    "start_of_sequence_tokens": "starts",
    "end_of_sequence_tokens": "ends",
    "input_sequence_embed_linear.1": "project_vector",
    "input_sequence_embed_linear.2": "project_states",
    "input_sequence_embed_linear.3": "project_score",
    "model": "transformer",
}
_PROJECTORS = {"model.vae_projector_image": "enter", "model.vae_predictor_image": "leave"}
_UNUSED = ("model.vae_projector_audio", "model.vae_predictor_audio", "model.mm_projector", "model.vision_tower")
VIEWS = {"whole": 1.0, "part": 0.5}
"""Of the last decoder, a whole picture and a part of one, in the order of their embeddings: how much their own vector
counts beside that of the whole picture."""
_DECODER = {"projector_unclip": "context", "projector_unclip2": "pooled"}


def convert_prior(file: Path, out: Path, heads: int | None = None) -> Path:
    """prior/model.bin as a folder `prior`; it never reads the target type, and its text input is left out unless given.

    Args:
        file: weights.
        out: a new folder.
        heads: of the transformer; None: one for 64 of its width, as GPT-2 has.

    Raises:
        BackboneError: an unreadable or unfitting file, or `out` exists.
    """
    state = {n: v for n, v in read_weights(file).items() if not n.startswith(("cond_stage_models.", "model.wte."))}
    weights = renamed(state, _PRIOR)
    vector = weight(weights, "project_vector.weight", 2, file)
    width, layers = len(vector), 1 + max((int(n.split(".")[2]) for n in weights if ".h." in n), default=-1)
    prior = RefinementPrior(
        vector.shape[1],
        width,
        layers,
        heads or max(1, width // 64),
        weight(weights, "project_score.weight", 2, file).shape[1],
        weight(weights, "project_states.weight", 2, file).shape[1],
        PRIOR_NORM,
        reads_target_type=False,
    )
    fill(prior, _whole(weights), file)
    with new_folder(out, ABOUT.format("the refinement prior")) as partial:
        save_parts(partial, {"prior": prior})
    return out


def convert_language(folder: Path, out: Path) -> Path:
    """llm-retrained/ as folders `llm` and `vector_projectors`.

    The released code adds the projected vector to the slot's own embedding, where the paper puts it in its place: that
    embedding goes into the last bias of P_enc. What P_out says is 20 long; only its direction counts here.

    Args:
        folder: with config.json, weights and tokenizer/.
        out: a new folder.

    Raises:
        BackboneError: an unreadable or unfitting file, or `out` exists.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    files = weight_files(folder)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= read_weights(file)
    own = {name: value for name, value in state.items() if name.startswith(tuple(_PROJECTORS))}
    rest = {n: v for n, v in state.items() if n not in own and not n.startswith(_UNUSED) and "rotary_emb" not in n}
    projectors = renamed(own, _PROJECTORS)
    first, last = (weight(projectors, f"enter.{layer}.weight", 2, files[0]) for layer in (0, 2))
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    slot = tokenizer.convert_tokens_to_ids(SLOT)
    if slot is None or slot == tokenizer.unk_token_id:
        raise BackboneError(f"{folder / 'tokenizer'}: expected the token {SLOT}, found none; give the released folder")
    added = weight(rest, "model.embed_tokens.weight", 2, files[0])[slot].float()
    projectors["enter.2.bias"] = projectors["enter.2.bias"].float() + added
    entering = VectorProjectors(first.shape[1], len(last), len(first))
    fill(entering, _whole(projectors), files[0])
    config = {**read_json(folder / "config.json"), "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    llm_config = LlamaConfig.from_dict({n: v for n, v in config.items() if n != "auto_map"})
    llm_config.vocab_size = len(rest["model.embed_tokens.weight"])
    with torch.device("meta"):
        llm = LlamaForCausalLM(llm_config)
    fill(llm, rest, files[0])
    with new_folder(out, ABOUT.format("the language model")) as partial:
        save_parts(partial, {"llm": llm, "vector_projectors": entering})
        tokenizer.save_pretrained(partial / "llm")
        write_json(partial / "language.json", RELEASED_LANGUAGE)
    return out


def convert_decoder(folder: Path, backbone: str, out: Path) -> Path:
    """The first released decoder: sdxl/unet with `projector_unclip` and `projector_unclip2` among its weights.

    Args:
        folder: of the UNet, with config.json.
        backbone: folder or hub id of SDXL: autoencoder and scheduler.
        out: a new folder.

    Raises:
        BackboneError: an unreadable or unfitting file, or `out` exists.
    """
    from diffusers import UNet2DConditionModel

    file = weight_files(folder)[0]
    state = read_weights(file)
    own = {name: value for name, value in state.items() if name.startswith("projector_unclip")}
    weights = renamed(own, _DECODER)
    first, last = (weight(weights, f"context.{layer}.weight", 2, file) for layer in (0, 2))
    constant, pooled = (weight(weights, f"pooled.{layer}.weight", 2, file) for layer in (0, 2))
    sizes = first.shape[1], len(last), len(pooled), len(first), constant.shape[1]
    projector = EmbeddingProjector(*sizes, vector_norm=NORM)
    fill(projector, _whole(weights), file)
    unet = UNet2DConditionModel.from_config(read_json(folder / "config.json"))
    fill(unet, _whole({name: value for name, value in state.items() if name not in own}), file)
    decoder = Decoder(load_vae(backbone), unet, load_scheduler(backbone), projector)
    check_projector(unet, projector, first.shape[1])
    with new_folder(out, ABOUT.format("the first decoder")) as partial:
        save_decoder(decoder, partial)
    return out


def convert_ip_adapter(file: Path, backbone: str, texts: TextCondition, out: Path, view: str = "whole") -> Path:
    """One view of the last released decoder, `ip_adapter_global_local_2_view.bin`.

    Tokens of a picture are norm(proj(x) + view embedding); of a part norm(proj(x)/2 + proj(whole)/2 + view embedding),
    the whole picture's vector being zeros where there is none, as here: so all of it goes into weight and bias of
    `proj` (that repository's diffusion/ip_adapter/ip_adapter.py, commit d42d4ca, `ImageProjModel` and `IPAdapterXL`).

    Args:
        file: {"image_proj": proj, norm, raw_embed; "ip_adapter": NUMBER.to_k_ip.weight, NUMBER.to_v_ip.weight}.
        backbone: folder or hub id of SDXL.
        texts: states of the text of every picture and of that of no condition.
        out: a new folder.
        view: of `VIEWS`; a decoder of parts is what subjects are refined with.

    Raises:
        BackboneError: an unreadable or unfitting file, or `out` exists.
    """
    flat = _nested(file)
    unet = load_unet(backbone)
    norm = weight(flat, "image_proj.norm.weight", 1, file)
    table, bias = weight(flat, "image_proj.proj.weight", 2, file), weight(flat, "image_proj.proj.bias", 1, file)
    embedding = flat.get("image_proj.raw_embed", torch.zeros(len(VIEWS), len(norm)))[list(VIEWS).index(view)]
    table, bias = VIEWS[view] * table, bias + embedding.repeat(len(table) // len(norm))
    layers = cross_attentions(unet)
    # IP-Adapter counts all attentions, with those to the picture itself between; 1, 3, ... are those to texts
    order = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    places = {name: 2 * place + 1 for place, name in enumerate(order)}
    projector = IPAdapterProjector(
        table.shape[1],
        len(norm),
        [module.to_q.out_features for module in layers.values()],
        len(table) // len(norm),
        texts.tokens.shape[1],
        pooled_width(unet),
        vector_norm=NORM,
    )
    projector.set_texts(texts)
    own = {f"image_proj.image_embeds.{kind}": value for kind, value in (("weight", table), ("bias", bias))}
    own |= {"image_proj.norm.weight": norm, "image_proj.norm.bias": flat["image_proj.norm.bias"]}
    for number, name in enumerate(layers):
        for kind in "kv":
            key = f"ip_adapter.{places[name]}.to_{kind}_ip.weight"
            own[f"layers.{number}.to_{kind}_ip.0.weight"] = weight(flat, key, 2, file)
    own |= {name: value for name, value in projector.state_dict().items() if "text" in name}
    fill(projector, _whole(own), file)
    with new_folder(out, ABOUT.format("one view of the last decoder")) as partial:
        save_decoder(Decoder(load_vae(backbone), unet, load_scheduler(backbone), projector), partial)
    return out


def convert_aesthetic(file: Path, out: Path) -> Path:
    """`sac+logos+ava1-l14-linearMSE.pth` as a folder `aesthetic`.

    Raises:
        BackboneError: an unreadable or unfitting file, or `out` exists.
    """
    state = dict(read_weights(file))
    predictor = AestheticPredictor(weight(state, "layers.0.weight", 2, file).shape[1])
    fill(predictor, _whole(state), file)
    with new_folder(out, ABOUT.format("the aesthetic predictor")) as partial:
        save_parts(partial, {"aesthetic": predictor})
    return out


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights under other names, by the longest beginning that `names` has; the others as they are."""
    found = {}
    for name, value in state.items():
        begins = [old for old in names if name == old or name.startswith(f"{old}.")]
        old = max(begins, key=len, default="")
        found[names[old] + name[len(old) :] if old else name] = value
    return found


def _nested(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that holds them in groups, under GROUP.NAME."""
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
        return {f"{group}.{name}": value for group, own in content.items() for name, value in own.items()}
    except Exception as error:  # pickle and zip raise their own kinds; no file, no groups
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{file}: cannot be read as weights in groups: {reason}; fetch the file again") from error


def _whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.float() for name, value in state.items()}
