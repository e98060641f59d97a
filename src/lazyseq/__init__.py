"""Lazy, indexable sequences with a C core: N things, a chain of functions, and a loop that wants them in time."""

import logging

from .buffering import add_cache
from .errors import EvaluationError, seterr
from .evaluation import prefetch
from .indexing import gather, take
from .mapping import smap, starmap
from .shape import batch, collate, concatenate, unbatch

__all__ = [
    "EvaluationError",
    "add_cache",
    "batch",
    "collate",
    "concatenate",
    "gather",
    "prefetch",
    "seterr",
    "smap",
    "starmap",
    "take",
    "unbatch",
]

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
