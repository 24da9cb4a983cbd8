"""What can be set of a run: how its nets are trained and what is measured of them."""

from dataclasses import dataclass, field, replace

from steadylens.errors import SettingError
from steadylens.nets.restoration import Padding
from steadylens.noise.degradation import Degradation
from steadylens.training.loop import Optimization
from steadylens.training.objectives import Augmentation, RestorationLoss


@dataclass(frozen=True, kw_only=True, slots=True)
class GaussianNoise:
    """Gaussian noise of several strengths, and how noisy images are stored.

    Attributes:
        sigmas_grey: Standard deviations of the noise in grey levels of 255.
        clip: Whether noisy images are clipped to [0, 1].
        quantize: Whether they are rounded to 8 bits.
    """

    sigmas_grey: tuple[float, ...]
    clip: bool = True
    quantize: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How many noisy images make a cell of Table 4.

    Attributes:
        versions: Noisy versions of each image; with `half_width`, at most that many.
        half_width: Sample, block by block in an order drawn once, until the Wilson interval of the cell is
            not wider than twice this share (0.001 for +-0.1 %); None to sample all.
    """

    versions: int = 150
    half_width: float | None = None

    def __post_init__(self) -> None:
        """Refuses counts and widths that measure nothing."""
        if self.versions < 1:
            raise SettingError(
                f"versions is {self.versions}, at least 1 noisy version of each image is needed"
            )
        if self.half_width is not None and not 0 < self.half_width < 0.5:
            raise SettingError(f"half_width is {self.half_width}, it must lie in (0, 0.5), as a share")


@dataclass(frozen=True, kw_only=True, slots=True)
class Refinement:
    """How the training of a restoration net goes on, from the weights that the part before ended with.

    A net leaves the identity only where strong noise rules its loss, and spares slight noise only where that
    counts too: one after the other.

    Attributes:
        steps: Number of further iterations.
        loss: Loss of a restored patch.
        optimization: Optimizer, started anew, and learning rate.
        degradation: Noise of this part.
    """

    steps: int
    loss: RestorationLoss
    optimization: Optimization
    degradation: Degradation


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorerRecipe:
    """How a restoration net is trained (Eq. 3, Sec. 4.1).

    Attributes:
        steps: Number of iterations.
        batch: Clean patches in a step.
        patch: Height and width of a patch in pixels.
        loss: Loss of a restored patch.
        optimization: Optimizer and learning rate.
        degradation: Noise of the training, M versions of each patch.
        clip_norm: Largest norm of the gradient, or None.
        zero_last_layer: Whether the last layer starts at zero, and so the residual nets as the identity.
        gain: Factor on the Xavier weights.
        padding: What surrounds an image once the net is trained.
        refinements: The further parts of the training, in their order.
    """

    steps: int
    batch: int
    patch: int
    loss: RestorationLoss
    optimization: Optimization
    degradation: Degradation
    clip_norm: float | None = None
    zero_last_layer: bool = False
    gain: float = 1.0
    padding: Padding = "zeros"
    refinements: tuple[Refinement, ...] = ()

    @property
    def parts(self) -> tuple["RestorerRecipe", ...]:
        """The parts of the training, one after the other, each without refinements."""
        first = replace(self, refinements=())
        further = (
            replace(
                first,
                steps=each.steps,
                loss=each.loss,
                optimization=each.optimization,
                degradation=each.degradation,
            )
            for each in self.refinements
        )
        return first, *further


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierRecipe:
    """How a classifier is trained or fine-tuned (Sec. 4.2).

    Attributes:
        steps: Number of iterations.
        batch: Images in a step.
        optimization: Optimizer and learning rate.
        augmentation: Changes of pose and light, or None.
        degradation: Noise, fresh in every step, or None for clean images.
        clip_norm: Largest norm of the gradient, or None.
        gain: Factor on the Xavier weights of a training from the start.
        standardize: Whether a sign net trained from the start brings each image to mean 0 and deviation 1
            instead of subtracting the mean image.
    """

    steps: int
    batch: int
    optimization: Optimization
    augmentation: Augmentation | None = None
    degradation: Degradation | None = None
    clip_norm: float | None = None
    gain: float = 1.0
    standardize: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRecipe:
    """What is measured, and on how much (Sec. 4).

    Attributes:
        degradation: Noise of the exploratory experiment (Table 2, Fig. 3).
        exploration_images: Test images of that experiment, a random choice.
        exploration_versions: Noisy versions of each.
        psnr_sigmas_grey: Strengths at which PSNR is measured; 0 for clean images.
        psnr_images: Test images for that.
        accuracy_images: Test images of Table 3, a random choice; None for all.
        stability_sigmas_grey: Columns of Table 4.
        stability_images: Test images for Table 4, a random choice; None for all.
        sampling: Noisy versions of each, or the precision that is wanted.
        clip: Whether noisy images are clipped to [0, 1] in Table 4 and the PSNRs by strength.
        quantize: Whether they are rounded to 8 bits there.
        unclipped_images: Test images on which Table 4 is measured once more, with noise that is neither
            clipped nor rounded; 0 for not at all.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The settings of a whole run.

    Attributes:
        name: What the recipe is called at the command line and in records.
        restorer: Training of the residual nets.
        dong: Training of the Dong net.
        classifier: Training of the classifier on clean images.
        fine_tuning: Fine-tuning behind a restorer, or behind none, on noisy images.
        noise_training: Training of the noise-augmented classifier from the start, on as many images as
            `classifier` and `fine_tuning` have together.
        evaluation: What is measured.
        nets: Names of the restorers to train and compare.
        front: Name of the restorer that is fused.
        smoothing_pixels: Standard deviation of the Gaussian smoothing that it is compared with.
        seeds: With how many seeds the classifier is trained and fine-tuned: the run's own and the next ones.
    """

    name: str
    restorer: RestorerRecipe
    dong: RestorerRecipe
    classifier: ClassifierRecipe
    fine_tuning: ClassifierRecipe
    noise_training: ClassifierRecipe
    evaluation: EvaluationRecipe
    nets: tuple[str, ...] = ("L11", "L9", "L7", "L5", "L3", "Dong")
    front: str = "L11"
    smoothing_pixels: float = 0.7
    seeds: int = 1

    def __post_init__(self) -> None:
        """Refuses a recipe that fuses a net which it does not train, or trains no classifier."""
        if self.seeds < 1:
            raise SettingError(f"seeds is {self.seeds}, a classifier is trained with at least 1")
        if self.front not in self.nets:
            raise SettingError(f"front is {self.front}, it must be one of the trained nets {self.nets}")

    def restorer_recipe(self, net: str) -> RestorerRecipe:
        """Returns the training of the net of that name."""
        return self.dong if net == "Dong" else self.restorer
