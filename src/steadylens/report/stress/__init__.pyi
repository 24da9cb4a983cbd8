from .certificates import certificate_illustrations as certificate_illustrations
from .certificates import certificate_tables as certificate_tables
from .certificates import certified_accuracy as certified_accuracy

__all__ = [
    "certificate_illustrations",
    "certificate_tables",
    "certified_accuracy",
]
