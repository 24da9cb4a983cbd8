from .page import write_report as write_report
from .page import write_tables as write_tables

__all__ = [
    "write_report",
    "write_tables",
]
