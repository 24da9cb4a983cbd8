from .batch import BatchSettings as BatchSettings
from .batch import restore_files as restore_files
from .engines import fastest_engine as fastest_engine
from .export import export_net as export_net
from .export import open_engine as open_engine
from .export import read_metadata as read_metadata
from .image_files import RestoredFile as RestoredFile
from .image_files import RestoreSettings as RestoreSettings
from .image_files import restore_file as restore_file
from .inspecting.noise_level import NoiseLevel as NoiseLevel
from .inspecting.noise_level import noise_level as noise_level
from .inspecting.noise_level import noise_level_of as noise_level_of
from .inspecting.preview import Preview as Preview
from .inspecting.preview import write_preview as write_preview
from .jobs import RestoreJob as RestoreJob
from .jobs import RestorePlan as RestorePlan
from .jobs import Shard as Shard
from .jobs import plan_jobs as plan_jobs
from .restorer import restore as restore
from .restorer import restorer_of as restorer_of
from .results import FileResult as FileResult
from .results import InPlaceHistory as InPlaceHistory
from .results import ResultLog as ResultLog
from .results import merge_logs as merge_logs
from .results import read_results as read_results
from .signature import ExportOptions as ExportOptions

__all__ = [
    "BatchSettings",
    "ExportOptions",
    "FileResult",
    "InPlaceHistory",
    "NoiseLevel",
    "Preview",
    "RestoreJob",
    "RestorePlan",
    "RestoreSettings",
    "RestoredFile",
    "ResultLog",
    "Shard",
    "export_net",
    "fastest_engine",
    "merge_logs",
    "noise_level",
    "noise_level_of",
    "open_engine",
    "plan_jobs",
    "read_metadata",
    "read_results",
    "restore",
    "restore_file",
    "restore_files",
    "restorer_of",
    "write_preview",
]
