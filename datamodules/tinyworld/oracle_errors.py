"""The oracle's own errors: what it says of pictures whose truth is known, for each edit type."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from datamodules.commands import OptionParser, printable_output
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.edits import draw_goal, is_visible
from datamodules.tinyworld.oracle import judge
from datamodules.tinyworld.reading import blurred
from datamodules.tinyworld.render import render
from datamodules.tinyworld.sample import Sample, draw_from
from datamodules.tinyworld.scene import Scene
from datamodules.tinyworld.splits import SPLITS, scene_name, split_rules
from datamodules.tinyworld.world import LEVELS, World

Pixels = NDArray[np.uint8]
Case = Callable[[Sample, Sample, World], Pixels | None]
MAX_TRIES = 200  # draws of another edit of a source, until there is taken to be none
NOISE = 6.0  # standard deviation of the stand-in for an autoencoder's error, in grey levels


def softened(sample: Sample, other: Sample, world: World) -> Pixels:
    """The target blurred (about sigma 0.7 pixels) and with noise: a stand-in for a latent autoencoder."""
    noise = np.random.Generator(np.random.PCG64(sample["metadata"]["index"])).normal(0, NOISE, (64, 64, 3))
    return np.clip(blurred(sample["target"].astype(np.float32)) + noise, 0, 255).astype(np.uint8)


def another_edit(sample: Sample, other: Sample, world: World) -> Pixels | None:
    """A random legal edit of the sample's type, done to its source, that makes another scene than its own edit.

    None where there is no other, as where only one atmosphere can be seen.
    """
    facts = sample["metadata"]
    source, goal = Scene.from_dict(facts["source_scene"]), Scene.from_dict(facts["target_scene"])
    rules = split_rules(facts["split"], world)
    draws = Draws(0, f"another edit/{facts['level']}/{facts['split']}", facts["index"])
    for _ in range(MAX_TRIES):
        found = draw_goal(draws, source, sample["edit_type"], rules)
        if found is not None and is_visible(source, *found) and scene_name(found[0]) != scene_name(goal):
            return render(found[0])
    return None


CASES: dict[str, Case] = {
    "true target": lambda sample, other, world: sample["target"],
    "softened target": softened,
    "unedited source": lambda sample, other, world: sample["source"],
    "another's target": lambda sample, other, world: other["target"],
    "another edit": another_edit,
    "uniform": lambda sample, other, world: np.full((64, 64, 3), 128, dtype=np.uint8),
}


def as_image(pixels: Pixels) -> NDArray[np.float32]:
    """uint8 [64, 64, 3] -> float32 [3, 64, 64] in [-1, 1], what the oracle takes."""
    return pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def oracle_errors(split: str, count: int, world: World) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Share of success and of preservation, and number of samples, for each case and edit type ("all" included).

    A sample without a picture for a case does not count in it.
    """
    samples = [draw_from(world, split, index) for index in range(count)]
    found: dict[str, dict[str, list[tuple[bool, bool]]]] = {case: defaultdict(list) for case in CASES}
    for number, sample in enumerate(samples):
        for case, picture in CASES.items():
            pixels = picture(sample, samples[number - 1], world)
            if pixels is None:
                continue
            verdict = judge(as_image(pixels), sample["metadata"])
            for group in ("all", sample["edit_type"]):
                found[case][group].append((verdict.success, verdict.preservation))
    return {
        case: {group: (*np.mean(values, axis=0).tolist(), len(values)) for group, values in groups.items()}
        for case, groups in found.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the oracle's errors."""
    parser = OptionParser(prog="python -m datamodules.tinyworld.oracle", description=main.__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--level", choices=LEVELS, default="full")
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-photographs", dest="photographs", action="store_false")
    options = parser.parse_args(arguments)
    printable_output()
    world = World(options.seed, options.level, options.photographs)
    errors = oracle_errors(options.split, options.count, world)
    sys.stdout.write(as_table(errors))
    return 0


def as_table(errors: dict[str, dict[str, tuple[float, float, int]]]) -> str:
    """One row an edit type, one column a case: success / preservation in percent."""
    lines = [
        "success / preservation in percent",
        f"{'edit type':15}{'n':>6}" + "".join(f"{case:>19}" for case in CASES),
    ]
    for group in sorted(errors["true target"], key=lambda name: (name != "all", name)):
        cells = (errors[case][group] for case in CASES)
        row = "".join(f"{100 * success:>11.1f} /{100 * kept:>6.1f}" for success, kept, _ in cells)
        lines.append(f"{group:15}{errors['true target'][group][2]:>6}{row}")
    return "\n".join(lines) + "\n"
