from .augmentation import Augmentation as Augmentation
from .augmentation import StrongAugmentation as StrongAugmentation
from .fusing.label_free import fuse_label_free as fuse_label_free
from .fusing.label_free import tune_restorer as tune_restorer
from .fusing.labelled import fine_tune as fine_tune
from .fusing.labelled import tune_together as tune_together
from .fusing.pairs import fuse_as_they_are as fuse_as_they_are
from .loop import Training as Training
from .objectives import LogSquaredError as LogSquaredError
from .objectives import classifying_objective as classifying_objective
from .objectives import consistency_objective as consistency_objective
from .objectives import pair_objective as pair_objective
from .objectives import restoring_objective as restoring_objective
from .optimizers import OneCycleAdam as OneCycleAdam
from .optimizers import OneCycleMuon as OneCycleMuon
from .places import DividedObjective as DividedObjective
from .places import own_places as own_places
from .recipes import recipe_named as recipe_named
from .run import Run as Run
from .stages import train_classifier as train_classifier
from .stages import train_restorer as train_restorer

__all__ = [
    "Augmentation",
    "DividedObjective",
    "LogSquaredError",
    "OneCycleAdam",
    "OneCycleMuon",
    "Run",
    "StrongAugmentation",
    "Training",
    "classifying_objective",
    "consistency_objective",
    "fine_tune",
    "fuse_as_they_are",
    "fuse_label_free",
    "own_places",
    "pair_objective",
    "recipe_named",
    "restoring_objective",
    "train_classifier",
    "train_restorer",
    "tune_restorer",
    "tune_together",
]
