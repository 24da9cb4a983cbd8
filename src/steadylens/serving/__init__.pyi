from .service import Service as Service

__all__ = [
    "Service",
]
