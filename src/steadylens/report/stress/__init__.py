"""The parts of a report on stress tests: certificates, corruptions and attacks; PyTorch is not needed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
