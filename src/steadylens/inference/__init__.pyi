from .engines import fastest_engine as fastest_engine
from .export import export_net as export_net
from .export import open_engine as open_engine
from .export import read_metadata as read_metadata
from .restorer import restore as restore
from .restorer import restorer_of as restorer_of
from .signature import ExportOptions as ExportOptions

__all__ = [
    "ExportOptions",
    "export_net",
    "fastest_engine",
    "open_engine",
    "read_metadata",
    "restore",
    "restorer_of",
]
