from .noise_level import NoiseLevel as NoiseLevel
from .noise_level import noise_level as noise_level
from .noise_level import noise_level_of as noise_level_of
from .preview import Preview as Preview
from .preview import write_preview as write_preview

__all__ = ["NoiseLevel", "Preview", "noise_level", "noise_level_of", "write_preview"]
