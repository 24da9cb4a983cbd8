"""Settings for whole runs: the paper's, and smaller ones. They are data; the code is the same for all.

PAPER has the paper's numbers. THOROUGH takes some hours on two cores, FAST half an hour, QUICK shows the
whole pipeline in under five minutes, SMOKE in seconds, with nets that have learned next to nothing.
"""

import math
from dataclasses import dataclass, field, replace

from steadylens.augmentation import Augmentation
from steadylens.degradation import Degradation
from steadylens.errors import SettingError
from steadylens.losses import LogSquaredError, RestorationLoss, SquaredError
from steadylens.noise import Attenuated, Gaussian, Laplacian, Sparse, Strength, Uniform
from steadylens.optimization import MomentumSgd, OneCycleAdam, OneCycleSgd, Optimization
from steadylens.restoration import DongNet, Padding, RestorationNet
from steadylens.stability import Sampling


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
        silent_start: Whether the last layer starts at zero, and so the residual nets as the identity.
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
    silent_start: bool = False
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
    """

    steps: int
    batch: int
    optimization: Optimization
    augmentation: Augmentation | None = None
    degradation: Degradation | None = None
    clip_norm: float | None = None
    gain: float = 1.0


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The settings of a whole run.

    Attributes:
        name: What the recipe is called at the command line and in records.
        restorer: Training of the residual nets.
        dong: Training of the Dong net.
        classifier: Training of the classifier on clean images.
        fine_tuning: Fine-tuning behind a restorer, or behind none, on noisy images.
        noise_training: Training of the noise-augmented classifier from the start, as many steps as
            `classifier` and `fine_tuning` have together.
        evaluation: What is measured.
        nets: Names of the restorers to train and compare.
        front: Name of the restorer that is fused.
        smoothing_pixels: Standard deviation of the Gaussian smoothing that it is compared with.
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

    def __post_init__(self) -> None:
        """Refuses a recipe that fuses a net which it does not train."""
        if self.front not in self.nets:
            raise SettingError(f"front is {self.front}, it must be one of the trained nets {self.nets}")

    def restorer_recipe(self, net: str) -> RestorerRecipe:
        """Returns the training of the net of that name."""
        return self.dong if net == "Dong" else self.restorer


def restorer_named(name: str, *, padding: Padding = "zeros") -> RestorationNet | DongNet:
    """Returns a fresh net of Table 1 by its name there.

    Args:
        name: L11, L9, L7, L5, L3 or Dong.
        padding: What surrounds an image in the net's same-size form.

    Raises:
        SettingError: If there is no net of that name.
    """
    nets = {f"L{depth}": depth for depth in (11, 9, 7, 5, 3)}
    if name == "Dong":
        return DongNet(padding=padding)
    if name not in nets:
        raise SettingError(f"there is no net {name!r}; choose one of {', '.join(nets)} or Dong")
    return RestorationNet(depth=nets[name], padding=padding)


def recipe_named(name: str) -> Recipe:
    """Returns one of the recipes of this module by its name.

    Raises:
        SettingError: If there is no recipe of that name.
    """
    recipes = {recipe.name: recipe for recipe in (PAPER, THOROUGH, FAST, QUICK, SMOKE)}
    if name not in recipes:
        raise SettingError(f"there is no recipe {name!r}; choose one of {', '.join(recipes)}")
    return recipes[name]


PAPER_SGD = MomentumSgd(learning_rate=0.001, decay=0.99996, l2=1e-6, last_layer_factor=0.1)
PAPER_CLASSIFIER_SGD = MomentumSgd(learning_rate=0.02, decay=0.9998, l2=0.5e-5, bias_factor=2.0)

PAPER = Recipe(
    name="paper",
    restorer=RestorerRecipe(
        steps=100_000,
        batch=50,
        patch=48,
        loss=SquaredError(),
        optimization=PAPER_SGD,
        degradation=Degradation(),
    ),
    # [15] trains with rate 1e-4, and 1e-5 in the last layer.
    dong=RestorerRecipe(
        steps=100_000,
        batch=50,
        patch=48,
        loss=SquaredError(),
        optimization=replace(PAPER_SGD, learning_rate=1e-4, decay=1.0, l2=0.0),
        degradation=Degradation(),
    ),
    classifier=ClassifierRecipe(steps=60_000, batch=50, optimization=PAPER_CLASSIFIER_SGD),
    fine_tuning=ClassifierRecipe(
        steps=15_000,
        batch=50,
        optimization=replace(PAPER_CLASSIFIER_SGD, learning_rate=0.002),
        degradation=Degradation(),
    ),
    noise_training=ClassifierRecipe(
        steps=75_000, batch=50, optimization=PAPER_CLASSIFIER_SGD, degradation=Degradation()
    ),
    evaluation=EvaluationRecipe(degradation=Degradation()),
)
"""The paper's numbers (Sec. 4). The rate of fine-tuning is ours: the paper does not state it."""

SLIGHT_TO_STRONG = Strength(low_grey=0.5, high_grey=60, logarithmic=True)
STRONG = Strength(low_grey=1, high_grey=55)

MIXED_NOISE = Degradation(
    families=(
        Gaussian(strength=SLIGHT_TO_STRONG, shared=0.1),
        Gaussian(strength=STRONG, shared=0.1),
        Uniform(strength=SLIGHT_TO_STRONG, shared=0.3),
        Laplacian(strength=SLIGHT_TO_STRONG, shared=0.3),
        Sparse(noise=Gaussian(strength=STRONG, shared=0.3)),
        Sparse(noise=Uniform(strength=STRONG, shared=0.3)),
        Attenuated(noise=Gaussian(strength=STRONG, shared=0.3)),
    ),
    weights=(3, 6, 1, 1, 1, 1, 1),
)
"""Slight and strong noise alike, mostly Gaussian, 8-bit and clipped as stored images are."""

FAST_RESTORER = RestorerRecipe(
    steps=600,
    batch=16,
    patch=40,
    # A floor of 35 dB: with a lower one the slightest noise of a batch rules its gradient, and a net that
    # sees few patches stays where it started.
    loss=LogSquaredError(floor=3e-4),
    optimization=OneCycleAdam(learning_rate=1e-3),
    degradation=MIXED_NOISE,
    clip_norm=5.0,
    silent_start=True,
    gain=math.sqrt(2),
    # Zeros cost an image of 48 pixels its border, and with it any gain at slight noise.
    padding="reflect",
)

FAST_ADAM = OneCycleAdam(learning_rate=1e-3, weight_decay=0.01)

FAST = Recipe(
    name="fast",
    restorer=FAST_RESTORER,
    dong=replace(FAST_RESTORER, silent_start=False),
    classifier=ClassifierRecipe(
        steps=1_200, batch=50, optimization=FAST_ADAM, augmentation=Augmentation(), clip_norm=5.0
    ),
    fine_tuning=ClassifierRecipe(
        steps=100,
        batch=50,
        optimization=replace(FAST_ADAM, learning_rate=3e-4),
        augmentation=Augmentation(),
        degradation=MIXED_NOISE,
        clip_norm=5.0,
    ),
    noise_training=ClassifierRecipe(
        steps=1_300,
        batch=50,
        optimization=FAST_ADAM,
        augmentation=Augmentation(),
        degradation=MIXED_NOISE,
        clip_norm=5.0,
    ),
    evaluation=EvaluationRecipe(
        degradation=MIXED_NOISE,
        exploration_images=600,
        exploration_versions=1,
        psnr_images=150,
        stability_images=600,
        sampling=Sampling(versions=1),
    ),
)

SLIGHT = Gaussian(strength=Strength(low_grey=0.3, high_grey=6, logarithmic=True), shared=0.1)
SLIGHTEST = Gaussian(strength=Strength(low_grey=0.25, high_grey=0.9), shared=0.1)

THOROUGH_RESTORER = replace(
    FAST_RESTORER,
    refinements=(
        Refinement(
            steps=1_500,
            loss=LogSquaredError(floor=2e-6),  # 57 dB
            optimization=OneCycleAdam(learning_rate=5e-4),
            degradation=replace(
                MIXED_NOISE,
                families=(SLIGHT, *MIXED_NOISE.families),
                weights=(4, *MIXED_NOISE.weights),
                clean_share=0.05,
            ),
        ),
        # Half of the patches have noise that rounding to 8 bits almost hides.
        Refinement(
            steps=600,
            loss=LogSquaredError(floor=3e-7),  # 65 dB
            optimization=OneCycleAdam(learning_rate=3e-4),
            degradation=replace(
                MIXED_NOISE,
                families=(SLIGHTEST, SLIGHT, *MIXED_NOISE.families),
                weights=(12, 4, *MIXED_NOISE.weights),
                clean_share=0.1,
            ),
        ),
    ),
)

VARIED = Augmentation(
    rotation_degrees=12,
    scale=0.15,
    shift=0.08,
    stretch=0.1,
    shear=0.1,
    exposure_stops=0.7,
    cast=0.1,
    brightness=0.1,
)
"""As different as one sign can look: a training set of many frames has few signs."""

# Clean images keep what the net knows of them while it learns noise.
CLEAN_AND_MIXED = replace(MIXED_NOISE, clean_share=0.2)

THOROUGH_SGD = OneCycleSgd(learning_rate=0.03, weight_decay=1e-4)

THOROUGH_CLASSIFIER = replace(
    FAST.classifier, steps=15_000, batch=25, optimization=THOROUGH_SGD, augmentation=VARIED
)

THOROUGH = replace(
    FAST,
    name="thorough",
    restorer=THOROUGH_RESTORER,
    dong=replace(THOROUGH_RESTORER, silent_start=False),
    classifier=THOROUGH_CLASSIFIER,
    fine_tuning=replace(
        THOROUGH_CLASSIFIER,
        steps=2_400,
        optimization=replace(THOROUGH_SGD, learning_rate=0.01),
        degradation=CLEAN_AND_MIXED,
    ),
    noise_training=replace(THOROUGH_CLASSIFIER, steps=17_400, degradation=CLEAN_AND_MIXED),
    evaluation=replace(
        FAST.evaluation,
        exploration_images=1263,
        exploration_versions=4,
        psnr_images=300,
        stability_images=1263,
    ),
)

QUICK = replace(
    FAST,
    name="quick",
    restorer=replace(FAST.restorer, steps=100, patch=32),
    dong=replace(FAST.dong, steps=100, patch=32),
    # Many small steps and plain images: there is no time to learn from changed ones.
    classifier=replace(FAST.classifier, steps=450, batch=16, augmentation=None, gain=math.sqrt(2)),
    fine_tuning=replace(FAST.fine_tuning, steps=40, batch=16, augmentation=None),
    noise_training=replace(FAST.noise_training, steps=490, batch=16, augmentation=None, gain=math.sqrt(2)),
    front="L7",  # after so few steps the deepest net is not yet the best, and it costs three times as much
    evaluation=replace(
        FAST.evaluation,
        exploration_images=100,
        exploration_versions=2,
        psnr_sigmas_grey=(0, 1, 4, 15, 25, 40),
        psnr_images=50,
        accuracy_images=430,
        stability_images=86,
    ),
)

SMOKE = replace(
    QUICK,
    name="smoke",
    restorer=replace(QUICK.restorer, steps=3, batch=2, patch=24),
    dong=replace(QUICK.dong, steps=3, batch=2, patch=24),
    classifier=replace(QUICK.classifier, steps=3, batch=10),
    fine_tuning=replace(QUICK.fine_tuning, steps=2, batch=4),
    noise_training=replace(QUICK.noise_training, steps=5, batch=10),
    evaluation=replace(
        QUICK.evaluation,
        exploration_images=6,
        exploration_versions=1,
        psnr_sigmas_grey=(0, 25),
        psnr_images=4,
        accuracy_images=20,
        stability_sigmas_grey=(1, 40),
        stability_images=8,
    ),
)
