"""Methods that draw subjects are compared on the samples that all have, each with its seconds."""

import json
from pathlib import Path

import pytest

from experiments.subject_results.methods import main, read_methods, shared_keys
from tests.mmig.methods.umm_diffusion.support import save_umm_run


def write_evaluation(folder: Path, values: dict[str, float], keys: str) -> str:
    folder.mkdir()
    given = {"clip_image_similarity_reference": 0.5, **values}
    rows = [json.dumps({"key": key, "seed": 0, "edit_type": "add", "values": given}) for key in keys]
    (folder / "samples.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "metrics.json").write_text('{"metrics": {}, "data": {"class_path": "x"}}', encoding="utf-8")
    return str(folder)


def scores(fidelity: float, alignment: float) -> dict[str, float]:
    product = fidelity * alignment
    return {"subject_fidelity": fidelity, "text_alignment": alignment, "subject_and_text": product}


def test_a_line_a_method_on_shared_samples_with_seconds(tmp_path: Path) -> None:
    ours = [write_evaluation(tmp_path / f"ours-{seed}", scores(0.5 + 0.1 * seed, 1.0), "abc") for seed in (0, 1)]
    tuned = write_evaluation(tmp_path / "tuned", {**scores(0.3, 0.6), "preparation_seconds": 12.5}, "bcd")
    run, out = save_umm_run(tmp_path / "run"), tmp_path / "methods.md"
    main([*(f"ours={folder}" for folder in ours), f"tuned={tuned}", "--ours", str(run), "--out", str(out)])
    heading, _, first, second = out.read_text(encoding="utf-8").splitlines()
    assert heading.startswith("| 2 samples | harmonic mean | minus ours |")
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (first, second))
    assert first[0] == "ours" and first[1].startswith("0.710 ") and first[2].startswith("0.000 ")
    assert second[1].startswith("0.400 ") and second[2].startswith("-0.310 ") and second[-1] == "12.5"
    assert 0 < float(first[-1]) < 10


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one, other = (write_evaluation(tmp_path / keys, scores(0.5, 0.5), keys) for keys in ("ab", "cd"))
    with pytest.raises(ValueError, match="that all evaluations share, found none"):
        shared_keys(read_methods([f"one={one}", f"other={other}"]))
    with pytest.raises(ValueError, match="expected NAME=FOLDER"):
        read_methods([one])
    with pytest.raises(ValueError, match="given twice"):
        read_methods([f"one={one}", f"one={one}"])
