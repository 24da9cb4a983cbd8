from .attachments import attachments_of as attachments_of
from .attachments import tiff_attachments as tiff_attachments
from .exif import with_thumbnail_of as with_thumbnail_of

__all__ = ["attachments_of", "tiff_attachments", "with_thumbnail_of"]
