"""A run: its data, its seed, and the settings of how nets are trained and what is measured."""

import hashlib
import math
import platform
import subprocess
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from steadylens.data.datasets import Dataset
from steadylens.errors import SettingError
from steadylens.nets.restoration import Padding
from steadylens.noise.degradation import Degradation, described
from steadylens.noise.named import GAUSSIAN, check_noise
from steadylens.progress import Observer, ignore_progress
from steadylens.records import Provenance
from steadylens.training.augmentation import Augmenting
from steadylens.training.loop import check_start_share
from steadylens.training.objectives import RestorationLoss
from steadylens.training.optimizers import Optimization


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianNoise:
    """Gaussian noise of several strengths, and how noisy images are stored.

    Attributes:
        sigmas_grey: Standard deviations of the noise in 8-bit grey levels (0 to 255).
        clip: Whether noisy images are clipped to [0, 1].
        quantize: Whether they are rounded to 8 bits.
    """

    sigmas_grey: tuple[float, ...]
    clip: bool = True
    quantize: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How many noisy images are classified for a cell of Table 4.

    Attributes:
        versions: Noisy versions of each image; with `half_width`, the largest number of them.
        half_width: Stop as soon as the cell's Wilson interval is at most twice as wide as this share, for
            example 0.001 for +-0.1 %; images come in blocks, in a random but fixed order. None for no early
            stop.
    """

    versions: int = 150
    half_width: float | None = None

    def __post_init__(self) -> None:
        """Refuses counts and widths with which nothing could be measured."""
        if self.versions < 1:
            raise SettingError(
                f"versions is {self.versions}, at least 1 noisy version of each image is needed"
            )
        if self.half_width is not None and not 0 < self.half_width < 0.5:
            raise SettingError(
                f"half_width is {self.half_width}, it must lie between 0 and 0.5: it is a share, such as "
                "0.001 for 0.1 percentage points"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Refinement:
    """A further phase of a restorer's training, which starts from the weights of the phase before.

    Train in phases: strong noise first, so that the net moves away from the identity; weak noise next, so
    that it learns not to harm nearly clean images.

    Attributes:
        steps: Number of further steps.
        loss: Loss of a restored patch.
        optimization: Optimizer, without the state of the phase before, and learning rate.
        degradation: Noise in this phase.
        batch: Clean patches in a step; None for as many as in the first phase.
        patch: Height and width of a patch in pixels; None for that of the first phase.
        start_share: The share of the weights before this phase in those after it: see `Training`.
    """

    steps: int
    loss: RestorationLoss
    optimization: Optimization
    degradation: Degradation
    batch: int | None = None
    patch: int | None = None
    start_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuses a share outside [0, 1)."""
        check_start_share(self.start_share)


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorerRecipe:
    """How a restoration net is trained (Eq. 3, Sec. 4.1).

    Attributes:
        steps: Number of steps.
        batch: Clean patches in a step.
        patch: Height and width of a patch in pixels.
        loss: Loss of a restored patch.
        optimization: Optimizer and learning rate.
        degradation: Noise in training; it makes M noisy versions of each patch.
        clip_norm: Gradients are clipped to this norm; None for no clipping.
        averaging: Decay of the moving average of the weights that the trained net has; None for the weights
            of the last step.
        zero_last_layer: Whether the last layer is initialised with zeros; a residual net then starts as the
            identity. A net that initialises itself, as the U-Net does, always starts so.
        gain: Gain of the Xavier initialisation, for a net that does not initialise itself.
        padding: How the net's `forward` pads an image; training uses no padding. The U-Net always reflects.
        start_share: The share of the weights before the training in those after it: see `Training`.
        refinements: Further phases of the training, in their order.
    """

    steps: int
    batch: int
    patch: int
    loss: RestorationLoss
    optimization: Optimization
    degradation: Degradation
    clip_norm: float | None = None
    averaging: float | None = None
    zero_last_layer: bool = False
    gain: float = 1.0
    padding: Padding = "zeros"
    start_share: float = 0.0
    refinements: tuple[Refinement, ...] = ()

    def __repr__(self) -> str:
        """Returns all settings, but `start_share` only if there is one: older trainings knew none."""
        return described(self, newer="start_share")

    @property
    def parts(self) -> tuple["RestorerRecipe", ...]:
        """The phases of the training in their order, each as a recipe without refinements."""
        first = replace(self, refinements=())
        further = (
            replace(
                first,
                steps=each.steps,
                loss=each.loss,
                optimization=each.optimization,
                degradation=each.degradation,
                batch=self.batch if each.batch is None else each.batch,
                patch=self.patch if each.patch is None else each.patch,
                start_share=each.start_share,
            )
            for each in self.refinements
        )
        return first, *further


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRecipe:
    """How a classifier is trained or fine-tuned (Sec. 4.2).

    Attributes:
        steps: Number of steps.
        batch: Images in a step.
        optimization: Optimizer and learning rate.
        augmentation: Random changes of pose, brightness and contrast; None for no augmentation.
        degradation: Noise, drawn anew in every step; None for clean images.
        clip_norm: Gradients are clipped to this norm; None for no clipping.
        averaging: Decay of the moving average of the weights that the trained net has; None for the weights
            of the last step.
        label_smoothing: Share of a label that is spread evenly over all classes.
        consistency: In fine-tuning, the weight of KL(p(x) || q(x + nu)), where p are the probabilities of the
            classifier before the fine-tuning, or of its teachers, for a clean image, and q those of the tuned
            net for a noisy one.
        start_share: In fine-tuning, the share of the weights before it in the tuned net: see `Training`.
        joint_start_share: The same where a restorer is trained together with the classifier.
        gain: Gain of the Xavier initialisation; not used in fine-tuning.
        standardize: Whether a new sign net standardizes each image to mean 0 and standard deviation 1
            instead of subtracting the mean image; not used in fine-tuning.
    """

    steps: int
    batch: int
    optimization: Optimization
    augmentation: Augmenting | None = None
    degradation: Degradation | None = None
    clip_norm: float | None = None
    averaging: float | None = None
    label_smoothing: float = 0.0
    consistency: float = 0.0
    start_share: float = 0.0
    joint_start_share: float = 0.0
    gain: float = 1.0
    standardize: bool = False

    def __post_init__(self) -> None:
        """Refuses shares outside [0, 1) and a negative weight of consistency."""
        if not 0 <= self.label_smoothing < 1:
            raise SettingError(f"label_smoothing is {self.label_smoothing}, it must lie in [0, 1)")
        if not 0 <= self.consistency < math.inf:
            raise SettingError(f"consistency is {self.consistency}, it must be a number of at least 0")
        check_start_share(self.start_share)
        check_start_share(self.joint_start_share)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecipe:
    """What is measured, and on how many images (Sec. 4). Subsets of the test images are chosen at random.

    Attributes:
        degradation: Noise of the exploratory experiment (Table 2, Fig. 3).
        exploration_images: Number of test images in that experiment.
        exploration_versions: Noisy versions of each.
        psnr_sigmas_grey: Noise strengths at which PSNR is measured, in grey levels; 0 for clean images.
        psnr_images: Number of test images for that.
        accuracy_images: Number of test images for Table 3; None for all.
        stability_sigmas_grey: Noise strengths of Table 4, in grey levels.
        stability_images: Number of test images for Table 4; None for all.
        sampling: Noisy versions of each of them, or the precision at which to stop.
        clip: Whether noisy images are clipped to [0, 1], for Table 4 and for PSNR by strength.
        quantize: Whether noisy images are rounded to 8 bits, for the same two.
        unclipped_images: Number of test images for a second Table 4, with noise that is neither clipped nor
            rounded; 0 for none.
        paired_images: Number of test images on which the network with a restorer is compared with each other
            network under noise, with intervals over images; 0 for none, None for all.
        noises: The kinds of noise of Table 4 and of these comparisons, by names of
            `steadylens.noise.named.NAMED`; noise that is neither clipped nor rounded is always Gaussian. They
            are no part of the recipe's `repr`: what was measured without them stays valid.
    """

    degradation: Degradation
    exploration_images: int = 1263
    exploration_versions: int = 150
    psnr_sigmas_grey: tuple[float, ...] = (0, 0.5, 1, 2, 4, 5, 8, 10, 15, 20, 25, 30, 35, 40)
    psnr_images: int = 1263
    accuracy_images: int | None = None
    stability_sigmas_grey: tuple[float, ...] = (1, 2, 4, 8, 10, 15, 20, 25, 30, 35, 40)
    stability_images: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    clip: bool = True
    quantize: bool = True
    unclipped_images: int = 0
    paired_images: int | None = 0
    noises: tuple[str, ...] = field(default=(GAUSSIAN,), repr=False)

    def __post_init__(self) -> None:
        """Refuses a kind of noise that there is not, or that is named twice, or none at all."""
        object.__setattr__(self, "noises", tuple(self.noises))
        for name in self.noises:
            check_noise(name)
        if not 0 < len(self.noises) == len(set(self.noises)):
            raise SettingError(f"noises are {self.noises}; name at least one, and each only once")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The settings of a whole run.

    Attributes:
        name: Name of the recipe on the command line and in records.
        restorer: Training of the residual nets of Table 1.
        dong: Training of the net of Dong et al.
        unet: Training of the U-Net.
        classifier: Training of the classifier on clean images.
        fine_tuning: Fine-tuning of the classifier on noisy images, behind a restorer or alone.
        noise_training: Training of a classifier from scratch with noise augmentation, on as many images as
            `classifier` and `fine_tuning` use together.
        evaluation: What is measured.
        nets: Names of the restorers to train and compare.
        front: Name of the restorer that is put in front of the classifier.
        together: Whether the restorer and the classifier are also trained together, with the settings of
            `fine_tuning`.
        wider: Width of a larger sign net, which is trained and fine-tuned on noise like the original, to tell
            what size alone brings; None for no such net.
        smoothing_pixels: Standard deviation in pixels of the Gaussian smoothing that it is compared with.
        seeds: Number of seeds with which the classifier is trained and fine-tuned, to measure the variation:
            the run's seed and those that follow it.
    """

    name: str
    restorer: RestorerRecipe
    dong: RestorerRecipe
    unet: RestorerRecipe
    classifier: ClassifierRecipe
    fine_tuning: ClassifierRecipe
    noise_training: ClassifierRecipe
    evaluation: EvaluationRecipe
    nets: tuple[str, ...] = ("L11", "L9", "L7", "L5", "L3", "Dong")
    front: str = "L11"
    together: bool = False
    wider: float | None = None
    smoothing_pixels: float = 0.7
    seeds: int = 1

    def __post_init__(self) -> None:
        """Refuses a recipe with no seed, or with a `front` that it does not train."""
        if self.seeds < 1:
            raise SettingError(f"seeds is {self.seeds}, it must be at least 1")
        if self.front not in self.nets:
            raise SettingError(f"front is {self.front}, it must be one of the trained nets {self.nets}")

    def restorer_recipe(self, net: str) -> RestorerRecipe:
        """Returns how a restorer is trained: by `dong`, by `unet`, or any other by `restorer`."""
        others = {"Dong": self.dong, "DongNet": self.dong, "UNet": self.unet, "RestorationUNet": self.unet}
        return others.get(net, self.restorer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The data, the settings and the seed that all stages of a run share.

    Attributes:
        data: Training, validation and test images.
        recipe: How nets are trained and what is measured.
        seed: Seed from which every random generator of the run is derived.
        device: Device on which the nets are trained and measured, or its name, such as "cpu".
        observe: Called with each progress message.
        checkpoint_seconds: Seconds between two saves of an unfinished training.

    Raises:
        SettingError: If PyTorch knows no such device, or data, recipe or seed are of another type.
    """

    data: Dataset
    recipe: Recipe
    seed: int
    device: torch.device
    observe: Observer = ignore_progress
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.data, Dataset):
            raise SettingError(
                f"data is a {type(self.data).__name__}, it must be a Dataset; make one with "
                "steadylens.dataset_from(test=..., train=...) or load_dataset"
            )
        if not isinstance(self.recipe, Recipe):
            raise SettingError(
                f"recipe is {self.recipe!r}, it must be a Recipe; get one with "
                "steadylens.recipe_named('smoke')"
            )
        if type(self.seed) is not int:  # a bool would be one
            raise SettingError(
                f"seed is {self.seed!r}, it must be an int such as 0, not a {type(self.seed).__name__}"
            )
        try:
            object.__setattr__(self, "device", torch.device(self.device))
        except (RuntimeError, TypeError) as error:
            raise SettingError(
                f"device is {self.device!r}, which PyTorch does not know; give cpu, cuda or a torch.device"
            ) from error

    @property
    def provenance(self) -> Provenance:
        """What the records of this run say about their origin: recipe, seed, data, code and device."""
        return Provenance(
            recipe=self.recipe.name,
            seed=self.seed,
            data=f"{self.data.source} ({self.data.fingerprint})",
            commit=commit(),
            versions=versions(),
            device=device_name(self.device),
        )

    def key(self, *parts: object) -> str:
        """Returns a short hash of data, seed and `parts`: of all that a stage's result depends on."""
        text = "\n".join(map(repr, (self.data.fingerprint, self.seed, *parts)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def commit() -> str:
    """Returns the git commit of the source tree that the package runs from; "unknown" outside of one."""
    try:
        # An installed package may lie inside somebody else's repository, whose commit says nothing about it.
        _git("ls-files", "--error-unmatch", Path(__file__).name)
        return _git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    return found.stdout.strip()


@cache
def versions() -> tuple[tuple[str, str], ...]:
    """Returns pairs of library and version, of the libraries that results depend on."""
    names = ("steadylens", "torch", "numpy", "pillow")
    return (("python", platform.python_version()), *((name, version(name)) for name in names))


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU, or the CPU's architecture with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
