from .card import Card as Card
from .card import card as card
from .checkpoint import load_model as load_model
from .checkpoint import save_model as save_model
from .hub import from_pretrained as from_pretrained
from .hub import push_to_hub as push_to_hub
from .hub import save_pretrained as save_pretrained
from .loading import load as load

__all__ = [
    "Card",
    "card",
    "from_pretrained",
    "load",
    "load_model",
    "push_to_hub",
    "save_model",
    "save_pretrained",
]
