"""What an image file holds beside its pixels: what is kept, what is brought up to date, what is left out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
