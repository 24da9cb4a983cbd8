"""Trained nets: saving, loading by name, model cards, and sharing on a model hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
