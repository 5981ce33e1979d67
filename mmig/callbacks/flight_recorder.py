"""What torch remembers of collective operations, for the day when they hang."""

from pathlib import Path


def flight_recorder(directory: Path) -> dict[str, str]:
    """Environment in which torch remembers the last 2,000 collectives and, when NCCL times out, writes them down.

    train.py sets it before ranks meet, where the environment has no other values. Read the files with
    `python -m torch.distributed.flight_recorder.fr_trace`.

    Args:
        directory: of the files, one a rank: `ncclN`.
    """
    return {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_FR_DUMP_ON_TIMEOUT": "1",
        "TORCH_FR_DUMP_TEMP_FILE": str(directory / "nccl"),
    }
