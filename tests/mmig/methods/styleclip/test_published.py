"""Published checkpoints: both layouts give the pictures of the same weights, and nothing else is opened."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmig.backbones.parts import BackboneError
from mmig.checkpoints.model_card import UNKNOWN, licence_of
from mmig.methods.styleclip.loading import load_generator, load_loss_clip
from mmig.methods.styleclip.published import convert_generator, generator_of, read_saved, renamed
from tests.mmig.methods.styleclip.reference import NUM_LAYERS, W_DIM, mapped, pictures, random_state


@pytest.fixture
def rosinality(tmp_path: Path) -> Path:
    file = tmp_path / "rosinality.pt"
    torch.save({"g_ema": random_state(), "latent_avg": torch.arange(W_DIM) / 10, "args": {"size": 16}}, file)
    return file


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_both_layouts_draw_what_the_paper_draws(rosinality: Path, tmp_path: Path, suffix: str) -> None:
    state = random_state()
    nvidia = renamed({**state, "latent_avg": torch.arange(W_DIM) / 10}, "")
    nvidia |= {"synthesis.b8.conv0.resample_filter": torch.ones(4, 4), "synthesis.b4.resample_filter": torch.ones(4, 4)}
    file = tmp_path / f"nvidia{suffix}"
    contiguous = {name: value.contiguous() for name, value in nvidia.items()}
    save_file(contiguous, file) if suffix == ".safetensors" else torch.save(contiguous, file)
    z = torch.randn(2, W_DIM)
    codes = torch.stack([mapped(z, state)] * 6, dim=1) + 0.3 * torch.randn(2, 6, W_DIM)
    expected = pictures(codes, state).float()
    for source in (rosinality, file):
        generator = generator_of(read_saved(source), source)
        torch.testing.assert_close(generator(codes.float()), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(generator.mapping(z), mapped(z, state).float(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(generator.codes(z, 0.0)[:, 0], (torch.arange(W_DIM) / 10).expand(2, -1))


def test_a_converted_folder_is_a_backbone(rosinality: Path, tmp_path: Path) -> None:
    folder = convert_generator(rosinality, tmp_path / "out")
    generator = load_generator(str(folder))
    assert (generator.resolution, generator.config.num_mapping_layers) == (16, NUM_LAYERS)
    assert not any(weight.requires_grad for weight in generator.parameters())
    card = (folder / "README.md").read_text()
    assert card.startswith("# out\n") and "weights of rosinality.pt" in card
    assert licence_of(str(folder)) == UNKNOWN
    with pytest.raises(BackboneError, match="exists already"):
        convert_generator(rosinality, folder)


def test_a_missing_mean_is_measured(tmp_path: Path) -> None:
    torch.save({"g_ema": random_state()}, tmp_path / "file.pt")
    generator = generator_of(read_saved(tmp_path / "file.pt"), "file.pt")
    torch.testing.assert_close(generator.mapping.w_avg, generator.code_statistics()[0])


class Dangerous:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.file,))


def test_a_pickle_with_code_is_refused_in_one_line_and_not_run(tmp_path: Path) -> None:
    file = tmp_path / "ffhq.pkl"
    file.write_bytes(pickle.dumps({"G_ema": Dangerous(tmp_path / "was-run")}))
    with pytest.raises(BackboneError, match=r"ffhq.pkl: expected weights alone.*torch.save\(G_ema.state_dict") as found:
        read_saved(file)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "was-run").exists()


def test_a_file_without_one_of_the_weights_is_refused_by_name(tmp_path: Path) -> None:
    state = random_state()
    del state["convs.1.noise.weight"]
    with pytest.raises(BackboneError, match=r"1 weights missing \(convs.1.noise.weight\)"):
        generator_of({"g_ema": state}, "g.pt")
    with pytest.raises(BackboneError, match=r"1 unknown \(more\)"):
        generator_of({"g_ema": random_state() | {"more": torch.ones(1)}}, "g.pt")
    with pytest.raises(BackboneError, match=r"mapping.fc0.weight"):
        generator_of({"a": torch.ones(1)}, "g.pt")


def test_the_clip_that_judges_makes_no_edits() -> None:
    with pytest.raises(BackboneError, match="judges edits and may not make them"):
        load_loss_clip("assets/tiny/clip-eval")
