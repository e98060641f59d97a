"""Lazy, indexable sequences with a C core: N things, a chain of functions, and a loop that wants them in time."""

import logging

from . import instrument
from ._core import View
from .buffering import add_cache
from .errors import EvaluationError, TooManyFailures, WorkerDiedError, seterr
from .evaluation import prefetch
from .guarding import guard
from .indexing import arange, case, cycle, gather, interleave, repeat, switch, take, uniter
from .mapping import smap, starmap
from .serialization import SerializableFunc
from .shape import batch, collate, concatenate, split, unbatch

__all__ = [
    "EvaluationError",
    "SerializableFunc",
    "TooManyFailures",
    "View",
    "WorkerDiedError",
    "add_cache",
    "arange",
    "batch",
    "case",
    "collate",
    "concatenate",
    "cycle",
    "gather",
    "guard",
    "instrument",
    "interleave",
    "prefetch",
    "repeat",
    "seterr",
    "smap",
    "split",
    "starmap",
    "switch",
    "take",
    "unbatch",
    "uniter",
]

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
