"""Fuses a restorer with a classifier in four ways: untrained, one of the two tuned, or both together."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
