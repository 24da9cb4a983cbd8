"""A trained net at work: restoring images, running in other engines, exporting."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
