from .certificates import certificate_illustrations as certificate_illustrations
from .certificates import certificate_tables as certificate_tables
from .certificates import certified_accuracy as certified_accuracy
from .stress_figures import attack_illustrations as attack_illustrations
from .stress_figures import corruption_illustrations as corruption_illustrations
from .stress_tables import attack_lead as attack_lead
from .stress_tables import attack_tables as attack_tables
from .stress_tables import corruption_lead as corruption_lead
from .stress_tables import corruption_tables as corruption_tables

__all__ = [
    "attack_illustrations",
    "attack_lead",
    "attack_tables",
    "certificate_illustrations",
    "certificate_tables",
    "certified_accuracy",
    "corruption_illustrations",
    "corruption_lead",
    "corruption_tables",
]
