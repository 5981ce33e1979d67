"""One seed for a whole run: what is given no seed of its own follows seed_everything."""

from pathlib import Path

import pytest

from tests.mmig.run.parsed import Parsed

CONFIG = ["fit", "--config", "configs/demo/stage1.yaml", "--name", "x"]


class Seeded(Parsed):
    """Says its seeds."""

    def seeds(self) -> tuple[int, int, int]:
        """Of everything, of model and data."""
        options = self.options
        return options.seed_everything, options.model.init_args.seed, options.data.init_args.seed


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ((), (0, 0, 0)),
        (("--seed_everything", "5"), (5, 5, 5)),
        (("--seed_everything", "5", "--model.init_args.seed", "3"), (5, 3, 5)),
        (("--seed_everything", "5", "--data.seed=0"), (5, 5, 0)),
        (("--model.seed", "3"), (0, 3, 0)),
    ],
)
def test_seeds_that_are_not_given_follow(options: tuple[str, ...], seeds: tuple[int, int, int]) -> None:
    cli = Seeded([*CONFIG, *options])
    assert cli.seeds() == seeds
    saved = cli.resolved_config()  # a resume is held to it
    assert (saved["model"]["init_args"]["seed"], saved["data"]["init_args"]["seed"]) == seeds[1:]


def test_a_seed_that_stays_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "seeded.yaml"
    file.write_text("seed_everything: 1\ndata: {init_args: {seed: 7}}\n")
    assert Seeded([*CONFIG, "--config", str(file)]).seeds() == (1, 1, 7)
    assert capsys.readouterr().err == ""  # as the file wants it
    assert Seeded([*CONFIG, "--config", str(file), "--seed_everything", "2"]).seeds() == (2, 2, 7)
    told = capsys.readouterr().err
    assert told == (
        "warning: --seed_everything 2 leaves data.init_args.seed 7 (the order of the data and augmentation) as given\n"
    )


def test_no_seed_for_everything_leaves_the_others_at_their_defaults() -> None:
    assert Seeded([*CONFIG, "--seed_everything", "false"]).seeds() == (False, 0, 0)
