"""The options of the three scripts: what they are called, what they mean, which values are valid.

Nothing here imports torch, so that --help answers at once.
"""

from .metrics import parse_metrics_options
from .sampling import parse_sample_options
from .training import batch_fault, contradiction, parse_train_options, training_defaults

__all__ = [
    "batch_fault",
    "contradiction",
    "parse_metrics_options",
    "parse_sample_options",
    "parse_train_options",
    "training_defaults",
]
