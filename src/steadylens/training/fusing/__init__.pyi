from .label_free import ConsistencyTuning as ConsistencyTuning
from .label_free import fuse_label_free as fuse_label_free
from .label_free import restorer_beside as restorer_beside
from .label_free import tune_restorer as tune_restorer
from .labelled import JointTuning as JointTuning
from .labelled import fine_tune as fine_tune
from .labelled import tune_together as tune_together
from .pairs import fuse_as_they_are as fuse_as_they_are

__all__ = [
    "ConsistencyTuning",
    "JointTuning",
    "fine_tune",
    "fuse_as_they_are",
    "fuse_label_free",
    "restorer_beside",
    "tune_restorer",
    "tune_together",
]
