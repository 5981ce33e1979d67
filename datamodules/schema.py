"""The sample and the batch, all that `mmig` needs to know of the data: the one door to the modules that define them.

Nothing here reads files or draws random numbers; see `shards` for the former and `transforms` for the latter.
"""

from datamodules.attachments import (
    AttachmentSettings,
    answers,
    no_attachments,
    with_attachment_tensors,
    words_in,
)
from datamodules.collate import cached_feature, collate, take
from datamodules.faults import BadSample
from datamodules.images import decode_image
from datamodules.outcome import Outcome
from datamodules.pixels import same_shape, to_mask, to_rgb
from datamodules.placeholders import (
    PLACEHOLDER_FIELDS,
    Placeholder,
    Span,
    placeholders,
    without_placeholders,
)
from datamodules.sample import (
    ANSWER,
    ATTACHMENT_KINDS,
    ATTACHMENT_ROLES,
    AUDIO_FORMATS,
    IMAGE_FIELDS,
    MASK_FIELDS,
    TEXT_FIELDS,
    Attachment,
    Batch,
    Concept,
    Fault,
    Sample,
    SchemaError,
    check_attachments,
    texts,
    validate,
)
from datamodules.tensors import image_to_tensor

__all__ = [
    "ANSWER",
    "ATTACHMENT_KINDS",
    "ATTACHMENT_ROLES",
    "AUDIO_FORMATS",
    "IMAGE_FIELDS",
    "MASK_FIELDS",
    "PLACEHOLDER_FIELDS",
    "TEXT_FIELDS",
    "Attachment",
    "AttachmentSettings",
    "BadSample",
    "Batch",
    "Concept",
    "Fault",
    "Outcome",
    "Placeholder",
    "Sample",
    "SchemaError",
    "Span",
    "answers",
    "cached_feature",
    "check_attachments",
    "collate",
    "decode_image",
    "image_to_tensor",
    "no_attachments",
    "placeholders",
    "same_shape",
    "take",
    "texts",
    "to_mask",
    "to_rgb",
    "validate",
    "with_attachment_tensors",
    "without_placeholders",
    "words_in",
]
