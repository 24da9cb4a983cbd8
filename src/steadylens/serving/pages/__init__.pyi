from .site import application as application
from .site import serve as serve

__all__ = ["application", "serve"]
