"""From clean to noisy images: noise families, their degradation, and a pool of noise drawn once."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
