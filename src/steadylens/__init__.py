"""Steadylens."""
