"""Checks before hours of measuring: nets and data have the same classes, on every worker."""

from collections.abc import Mapping

from torch import nn

from steadylens import workers
from steadylens.checkpoints.checkpoint import fingerprint, has_fingerprint
from steadylens.checkpoints.loading import LoadedNet, check_classes, check_order, count_classes
from steadylens.errors import SettingError
from steadylens.images.tensors import to_float
from steadylens.nets.facts import facts_of
from steadylens.progress import Update
from steadylens.training.run import Run


def check_test_images(run: Run) -> None:
    """Refuses data without test images, such as photographs without labels: nothing can be measured on them.

    Raises:
        SettingError: If there are none.
    """
    if not len(run.data.test):
        raise SettingError(f"{run.data.source} has no test images; give some to measure on")


def check_against(classifier: LoadedNet, run: Run) -> None:
    """Refuses a classifier that does not have the classes of the data in the same order, as far as is known.

    The run's observer is told if the order cannot be known from the names.

    Raises:
        SettingError: If the images have no labels, or the number of classes or their order differs.
    """
    if not run.data.class_names:
        raise SettingError(
            f"{run.data.source} has images without labels; give labelled ones to {classifier.name}"
        )
    check_classes(classifier, run.data.class_names, run.data.source)
    if note := check_order(classifier, run.data.class_names, run.data.source):
        run.observe(Update(stage=classifier.name, state="noted", note=note))


def check_network(name: str, network: nn.Module, run: Run) -> None:
    """Refuses a module that does not give a logit for each class of the data, by running it on one image.

    Args:
        name: Name of the module for messages.
        network: A classifier, alone or behind a restorer.
        run: Its test images are what the module is measured on.

    Raises:
        SettingError: If there are no test images, the module returns something else than a logit for each
            class, or it names the classes in another order.
    """
    names, source = run.data.class_names, run.data.source
    check_test_images(run)
    named = LoadedNet(name=name, module=network)
    if (classes := count_classes(named, to_float(run.data.test.images[:1]))) != len(names):
        raise SettingError(
            f"{name} tells {classes} classes apart, {source} has {len(names)}; use it with the data "
            "that it was trained for, or give the names of all of its classes as the data's class names"
        )
    known = facts_of(network).class_names
    if known and len(known) == len(names):
        check_order(named, names, source)


def check_workers(run: Run, nets: Mapping[str, nn.Module]) -> None:
    """Refuses workers that have other images, settings or nets than worker 0.

    Args:
        run: Data, recipe and seed.
        nets: All nets that are measured, by name.

    Raises:
        SettingError: If a worker has other ones, as where machines have different files.
    """
    if workers.count() > 1:
        workers.check_agreement("images, settings or seed", run.key(run.recipe, run.recipe.evaluation.noises))
        workers.check_agreement("nets or weights", run.key(*map(_known_of, nets.items())))


def _known_of(named: tuple[str, nn.Module]) -> tuple[object, ...]:
    """Returns what identifies a net in every process; if nothing describes it, the sums of its weights."""
    name, net = named
    if has_fingerprint(net):
        return name, fingerprint(net)
    return name, *(
        (key, tuple(value.shape), float(value.detach().cpu().double().sum()))
        for key, value in net.state_dict().items()
    )
