from .certificates import measure_certificates as measure_certificates
from .certification import Certified as Certified
from .certification import Certifying as Certifying
from .certification import certify_image as certify_image

__all__ = [
    "Certified",
    "Certifying",
    "certify_image",
    "measure_certificates",
]
