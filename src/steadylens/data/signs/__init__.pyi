from .synthetic_signs import draw_track as draw_track

__all__ = ["draw_track"]
