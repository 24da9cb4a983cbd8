from .card import Card as Card
from .card import card as card
from .checkpoint import TrainingInfo as TrainingInfo
from .checkpoint import load_model as load_model
from .checkpoint import save_model as save_model
from .choosing import default_restorer as default_restorer
from .hub import from_pretrained as from_pretrained
from .hub import push_to_hub as push_to_hub
from .hub import save_pretrained as save_pretrained
from .loading import LoadedNet as LoadedNet
from .loading import load as load
from .loading import load_classifier as load_classifier
from .loading import load_net as load_net

__all__ = [
    "Card",
    "LoadedNet",
    "TrainingInfo",
    "card",
    "default_restorer",
    "from_pretrained",
    "load",
    "load_classifier",
    "load_model",
    "load_net",
    "push_to_hub",
    "save_model",
    "save_pretrained",
]
