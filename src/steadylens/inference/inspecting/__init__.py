"""What is seen of an image before it is restored: how strong its noise is, and one part of it restored."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
