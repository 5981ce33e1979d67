"""The method's metrics: how well pictures were inverted, whatever became of them afterwards, and how long it took."""

from mmig.metrics.measures import Told


class InversionError(Told):
    """Mean squared difference of a picture and what its code draws, values in [-1,1], in [0,4].

    Samples that a `uninverted: skip` leaves out of other metrics count here.
    """

    name = "inversion_error"


class InversionSeconds(Told):
    """Of a picture's inversion, its share of the batch's; they are among the `EditSeconds`. Asked for by its path."""

    name = "inversion_seconds"
