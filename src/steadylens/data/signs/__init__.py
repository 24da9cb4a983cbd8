"""Synthetic traffic signs of 43 classes: their artwork, and photographs of it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
