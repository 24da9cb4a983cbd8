from .workflows import certify as certify
from .workflows import compare as compare
from .workflows import evaluate_nets as evaluate_nets
from .workflows import reproduce as reproduce

__all__ = [
    "certify",
    "compare",
    "evaluate_nets",
    "reproduce",
]
