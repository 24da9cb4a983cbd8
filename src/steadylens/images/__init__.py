"""Images in and out of files, as float tensors (N, C, H, W), RGB, in [0, 1]."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
