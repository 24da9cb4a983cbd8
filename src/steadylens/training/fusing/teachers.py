"""The classifiers whose answers for clean images a pair is to give for noisy ones."""

from collections.abc import Sequence

from steadylens import workers
from steadylens.checkpoints.checkpoint import TEACHER, fingerprint, has_fingerprint
from steadylens.checkpoints.loading import LoadedNet, check_classes, check_order
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.facts import facts_of
from steadylens.progress import Update
from steadylens.training.fusing.pairs import Net, loaded
from steadylens.training.run import Run


def fitting(run: Run, given: Sequence[Net], *, weight: float, weight_of: str) -> tuple[LoadedNet, ...]:
    """Returns teachers that fit the data, and have an effect.

    Args:
        run: Data, recipe and seed. Its observer is told if the order of a teacher's classes is not known.
        given: The teachers.
        weight: The weight of their answers in the loss.
        weight_of: Where that weight is set, in words.

    Raises:
        SettingError: If a teacher has other classes than the data, or reads other images; one is given twice,
            or cannot be told from others; the weight is 0; more teachers are given than a step has images; or
            workers that train together have different ones.
    """
    teachers = tuple(map(loaded, given))
    if teachers and weight == 0:
        raise SettingError(
            f"teachers have no effect, since {weight_of} is 0; set it to a weight such as 1.0, or give no "
            "teachers"
        )
    if len(teachers) > (batch := run.recipe.fine_tuning.batch):
        raise SettingError(
            f"there are {len(teachers)} teachers, but a step has only {batch} images, and each asks one of "
            "them; give fewer, or a recipe with larger batches"
        )
    known: dict[str, str] = {}
    for number, teacher in enumerate(teachers, start=1):
        name = teacher.name or f"{TEACHER} {number}"
        _check(run, teacher, name)
        if (key := fingerprint(teacher.module)) in known:
            raise SettingError(f"{name} and {known[key]} are the same net; give each teacher once")
        known[key] = name
    workers.check_agreement("teachers", run.key(*known))
    return teachers


def _check(run: Run, teacher: LoadedNet, name: str) -> None:
    names, source, images = run.data.class_names, run.data.source, run.data.train.images
    if not has_fingerprint(teacher.module):
        raise SettingError(
            f"{name}, of the class {type(teacher.module).__name__}, cannot be told from other nets, so that "
            "the training could not be resumed; register the class with steadylens.nets.register_net"
        )
    facts = facts_of(teacher.module)
    if facts.input_size not in (None, images.shape[-1]):
        raise SettingError(
            f"{name} reads images of {facts.input_size} pixels, these have {images.shape[-1]}; give teachers "
            "of the classifier's size"
        )
    if facts.preprocessing is not None and facts.preprocessing.fit != run.data.fit:
        raise SettingError(
            f"{name} reads photographs fitted by {facts.preprocessing.fit}, these were fitted by "
            f"{run.data.fit}; give teachers that read them as the classifier does"
        )
    named = LoadedNet(name=name, module=teacher.module, info=teacher.info)
    check_classes(named, names, source, images=to_float(images[:1]))
    if note := check_order(named, names, source):
        run.observe(Update(stage=name, state="noted", note=note))


def made_from(restorer: LoadedNet, classifier: LoadedNet, *teachers: LoadedNet) -> dict[str, LoadedNet]:
    """Returns the nets that a pair is made from by their role; the classifier may be one of the teachers."""
    itself = fingerprint(classifier.module)
    others = [each for each in teachers if fingerprint(each.module) != itself]
    numbered = {f"{TEACHER} {number}": each for number, each in enumerate(others, start=1)}
    return {"restorer": restorer, "classifier": classifier, **numbered}
