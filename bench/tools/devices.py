"""Units, and how fast a GPU can be by its name."""

TERA, GIGA, GIB = 1e12, 1e9, 2**30
PEAKS = (("H100 PCIe", 756), ("H100 NVL", 835), ("H200 NVL", 835), ("A100", 312), ("H100", 989), ("H200", 989))
"""TFLOP/s of dense bfloat16 products from NVIDIA's data sheets; the first part of a name that fits counts."""


def peak_of(device_name: str) -> float | None:
    """Floating-point operations a second at most, dense bfloat16; None of a device that is not in the table."""
    return next((peak * TERA for part, peak in PEAKS if part in device_name), None)
