"""Settings of a stage that do not go together, told before anything is loaded."""

from collections.abc import Collection

from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.parts import MMSMConfig
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings


def mmsm_beside(connector: ConnectorSettings | None, mmsm: MMSMConfig | None) -> MMSMConfig:
    """Sizes and places of MMSM: as given, the defaults where nothing is, no place where another connector is given.

    Raises:
        ValueError: both are given.
    """
    if connector is None:
        return mmsm or MMSMConfig()
    if mmsm is not None and mmsm.locations:
        raise ValueError(
            f"mmsm and connector: expected one of them, found MMSM at {', '.join(mmsm.locations)} and "
            f"{type(connector).__name__}; give mmsm: null with a connector"
        )
    return MMSMConfig(locations=[])


def check_objective(
    losses: Collection[str], objective: ObjectiveConfig, mmsm: MMSMConfig, connector: ConnectorSettings | None
) -> None:
    """Raise ValueError for a loss term without what it is about, or a setting without its loss term."""
    if objective.image_path.deliberate_share > 0 and "blip2" not in losses:
        raise ValueError("objective.image_path.deliberate_share draws timesteps for the loss 'blip2', which is off")
    if "mmsm" in losses and not mmsm.locations:
        found = "mmsm.locations []" if connector is None else f"the connector {type(connector).__name__}"
        raise ValueError(f"loss_weights: 'mmsm' is MMSM's own loss, found {found}; give loss_weights without it")
    found = objective.unread_text(connector is not None and connector.place == "replace")
    if {"as", "ar"} & set(losses) and found:
        raise ValueError(
            f"loss_weights: 'as' and 'ar' are about a text that the denoiser reads, found {found}; give loss_weights "
            "without them"
        )
