"""Clean, labelled images, split by whole tracks into training, validation and test sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
