from .attacks import Attacks as Attacks
from .certificates import measure_certificates as measure_certificates
from .certification import Certified as Certified
from .certification import Certifying as Certifying
from .certification import certify_image as certify_image
from .corruptions import Corruptions as Corruptions
from .corruptions import corrupted as corrupted

__all__ = [
    "Attacks",
    "Certified",
    "Certifying",
    "Corruptions",
    "certify_image",
    "corrupted",
    "measure_certificates",
]
