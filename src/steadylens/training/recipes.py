"""The recipes, from the paper's settings to a smoke test. A recipe is only data; all run the same code.

PAPER has the settings of the paper, PAPER_QUARTER a quarter of its iterations. UNET is what we recommend: it
trains the U-Net, and then the U-Net and the classifier together, in a day on two CPU cores. SMOOTHING tunes
classifiers for certificates. PHOTOGRAPHS trains the U-Net on photographs, and CAMERA goes on with the
noise of cameras. LONG trains the nets of the paper for twenty minutes on a GPU, which would take days on two
CPU cores. There, THOROUGH takes some hours and FAST half an hour. QUICK runs the whole pipeline in under five
minutes, SMOKE in seconds, with nets that have learned next to nothing.
"""

import math
from dataclasses import replace

from steadylens.errors import SettingError
from steadylens.noise.degradation import Degradation
from steadylens.noise.mixtures import (
    CAMERA_NOISE,
    CLEAN_AND_MIXED,
    MIXED_NOISE,
    MOSTLY_SLIGHT,
    PHOTOGRAPH_NOISE,
    SLIGHT,
    SMOOTHING_NOISE,
    STRONG_AND_CLEAN,
    with_more_gaussian,
    with_slight_noise,
)
from steadylens.training.augmentation import Augmentation, StrongAugmentation
from steadylens.training.objectives import LogSquaredError, SquaredError
from steadylens.training.optimizers import MomentumSgd, OneCycleAdam, OneCycleMuon
from steadylens.training.run import (
    ClassifierRecipe,
    EvaluationRecipe,
    Recipe,
    Refinement,
    RestorerRecipe,
    Sampling,
)

PAPER_SGD = MomentumSgd(learning_rate=0.001, decay=0.99996, l2=1e-6, last_layer_factor=0.1)

PAPER_CLASSIFIER_SGD = MomentumSgd(learning_rate=0.02, decay=0.9998, l2=0.5e-5, bias_factor=2.0)

PAPER_TUNING_SGD = replace(PAPER_CLASSIFIER_SGD, learning_rate=0.002)

PAPER_RESTORER = RestorerRecipe(
    steps=100_000,
    batch=50,
    patch=48,
    loss=SquaredError(),
    optimization=PAPER_SGD,
    degradation=Degradation(),
)

PAPER = Recipe(
    name="paper",
    restorer=PAPER_RESTORER,
    # [15] uses a learning rate of 1e-4, and of 1e-5 in the last layer.
    dong=replace(PAPER_RESTORER, optimization=replace(PAPER_SGD, learning_rate=1e-4, decay=1.0, l2=0.0)),
    unet=replace(PAPER_RESTORER),  # a copy of its own: the paper has no U-Net
    classifier=ClassifierRecipe(steps=60_000, batch=50, optimization=PAPER_CLASSIFIER_SGD),
    fine_tuning=ClassifierRecipe(
        steps=15_000,
        batch=50,
        optimization=PAPER_TUNING_SGD,
        degradation=Degradation(),
    ),
    noise_training=ClassifierRecipe(
        steps=75_000, batch=50, optimization=PAPER_CLASSIFIER_SGD, degradation=Degradation()
    ),
    evaluation=EvaluationRecipe(degradation=Degradation()),
)
"""The paper's settings (Sec. 4). The learning rate of fine-tuning is our choice; the paper gives none."""


def _quartered(optimization: MomentumSgd) -> MomentumSgd:
    """Returns an optimization whose learning rate falls as far, in a quarter of the iterations."""
    return replace(optimization, decay=optimization.decay**4)


PAPER_QUARTER = replace(
    PAPER,
    name="paper-quarter",
    restorer=replace(PAPER.restorer, steps=25_000, optimization=_quartered(PAPER_SGD)),
    dong=replace(PAPER.dong, steps=25_000),
    unet=replace(PAPER.unet, steps=25_000, optimization=_quartered(PAPER_SGD)),
    classifier=replace(PAPER.classifier, steps=15_000, optimization=_quartered(PAPER_CLASSIFIER_SGD)),
    fine_tuning=replace(PAPER.fine_tuning, steps=3_750, optimization=_quartered(PAPER_TUNING_SGD)),
    noise_training=replace(PAPER.noise_training, steps=18_750, optimization=_quartered(PAPER_CLASSIFIER_SGD)),
    evaluation=EvaluationRecipe(
        degradation=Degradation(), exploration_versions=4, psnr_images=300, sampling=Sampling(versions=2)
    ),
    nets=("L11",),
)
"""The paper's settings for L11 alone, in a quarter of the iterations. The learning rates fall as far."""

FAST_RESTORER = RestorerRecipe(
    steps=600,
    batch=16,
    patch=40,
    # A floor of 35 dB: with a lower one the images with the slightest noise dominate the gradient, and a net
    # that sees few patches hardly leaves its initial state.
    loss=LogSquaredError(floor=3e-4),
    optimization=OneCycleAdam(learning_rate=1e-3),
    degradation=MIXED_NOISE,
    clip_norm=5.0,
    zero_last_layer=True,
    gain=math.sqrt(2),
    # Zero padding spoils the border of a 48-pixel image, which outweighs any gain at slight noise.
    padding="reflect",
)

FAST_ADAM = OneCycleAdam(learning_rate=1e-3, weight_decay=0.01)

FAST_CLASSIFIER = ClassifierRecipe(
    steps=1_200,
    batch=50,
    optimization=FAST_ADAM,
    augmentation=Augmentation(),
    clip_norm=5.0,
    # So that brightness and contrast do not matter: the same sign stands in the sun and in the shade.
    standardize=True,
)

# Batches of 32: the U-Net needs a fourteenth of L11's multiply-adds.
FAST_UNET = replace(FAST_RESTORER, steps=2_000, batch=32, patch=48, averaging=0.99)

FAST = Recipe(
    name="fast",
    restorer=FAST_RESTORER,
    dong=replace(FAST_RESTORER, zero_last_layer=False),
    unet=FAST_UNET,
    classifier=FAST_CLASSIFIER,
    fine_tuning=ClassifierRecipe(
        steps=100,
        batch=50,
        optimization=replace(FAST_ADAM, learning_rate=3e-4),
        augmentation=Augmentation(),
        degradation=MIXED_NOISE,
        clip_norm=5.0,
    ),
    noise_training=replace(FAST_CLASSIFIER, steps=1_300, degradation=MIXED_NOISE),
    evaluation=EvaluationRecipe(
        degradation=MIXED_NOISE,
        exploration_images=600,
        exploration_versions=1,
        psnr_images=150,
        stability_images=600,
        sampling=Sampling(versions=1),
    ),
)

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
        # Half of the patches have noise so weak that rounding to 8 bits removes nearly all of it.
        Refinement(
            steps=600,
            loss=LogSquaredError(floor=3e-7),  # 65 dB
            optimization=OneCycleAdam(learning_rate=3e-4),
            degradation=with_slight_noise((12, 4, *MIXED_NOISE.weights), clean_share=0.1),
        ),
    ),
)

UNET_RESTORER = replace(
    FAST_UNET,
    steps=7_000,
    averaging=0.999,
    loss=LogSquaredError(floor=2e-4),  # 37 dB
    refinements=(
        Refinement(
            steps=6_000,
            loss=LogSquaredError(floor=5e-6),  # 53 dB
            optimization=OneCycleAdam(learning_rate=7e-4),
            degradation=with_slight_noise((0.5, 3, 5, 6, 0.5, 0.5, 0.5, 0.5, 0.5), clean_share=0.03),
        ),
        Refinement(
            steps=9_000,
            loss=LogSquaredError(floor=5e-7),  # 63 dB
            optimization=OneCycleAdam(learning_rate=5e-4),
            degradation=MOSTLY_SLIGHT,
        ),
    ),
)

THOROUGH_CLASSIFIER = replace(FAST_CLASSIFIER, steps=12_000, batch=25)

THOROUGH = replace(
    FAST,
    name="thorough",
    restorer=THOROUGH_RESTORER,
    dong=replace(THOROUGH_RESTORER, zero_last_layer=False),
    unet=UNET_RESTORER,
    classifier=THOROUGH_CLASSIFIER,
    fine_tuning=replace(
        FAST.fine_tuning,
        steps=2_400,
        batch=25,
        optimization=replace(FAST_ADAM, learning_rate=1e-4),
        degradation=CLEAN_AND_MIXED,
    ),
    # As many images as training and fine-tuning use together.
    noise_training=replace(THOROUGH_CLASSIFIER, steps=14_400, degradation=CLEAN_AND_MIXED),
    evaluation=replace(
        FAST.evaluation,
        exploration_images=1263,
        exploration_versions=4,
        psnr_images=300,
        stability_images=2000,
        unclipped_images=600,
    ),
    seeds=3,
)

# Batches of 256 patches keep a GPU busy.
LONG_RESTORER = replace(
    THOROUGH_RESTORER,
    steps=4_000,
    batch=256,
    patch=48,
    refinements=tuple(
        replace(part, steps=steps)
        for part, steps in zip(THOROUGH_RESTORER.refinements, (3_000, 1_500), strict=True)
    ),
)

LONG_CLASSIFIER = replace(THOROUGH_CLASSIFIER, steps=24_000, batch=64)

LONG = replace(
    THOROUGH,
    name="long",
    restorer=LONG_RESTORER,
    dong=replace(LONG_RESTORER, zero_last_layer=False),
    classifier=LONG_CLASSIFIER,
    fine_tuning=replace(
        THOROUGH.fine_tuning,
        steps=4_000,
        batch=128,
        optimization=replace(FAST_ADAM, learning_rate=3e-4),
    ),
    noise_training=replace(LONG_CLASSIFIER, steps=32_000, degradation=CLEAN_AND_MIXED),
    evaluation=replace(
        THOROUGH.evaluation,
        exploration_versions=150,
        psnr_images=1263,
        stability_images=None,
        sampling=Sampling(versions=8),
        unclipped_images=2000,
    ),
)

UNET_CLASSIFIER = ClassifierRecipe(
    steps=8_000,
    batch=64,
    optimization=OneCycleAdam(learning_rate=1e-3, warmup_share=0.02, weight_decay=0.02),
    augmentation=StrongAugmentation(),
    clip_norm=5.0,
    averaging=0.999,
    label_smoothing=0.05,
    gain=math.sqrt(2),
    standardize=True,
)

UNET = replace(
    THOROUGH,
    name="unet",
    unet=replace(
        UNET_RESTORER,
        refinements=(
            *UNET_RESTORER.refinements,
            # Without these it restores noise of 1 and 2 grey levels 0.1 dB less well than L11.
            *(
                Refinement(
                    steps=steps,
                    loss=LogSquaredError(floor=5e-7),
                    optimization=OneCycleAdam(learning_rate=2.5e-4),
                    degradation=degradation,
                )
                for steps, degradation in (
                    (4_000, with_more_gaussian(0.25, low_grey=0.7, high_grey=5)),
                    (3_000, with_more_gaussian(0.45, low_grey=1, high_grey=4)),
                )
            ),
        ),
    ),
    classifier=UNET_CLASSIFIER,
    fine_tuning=replace(
        UNET_CLASSIFIER,
        steps=10_000,
        optimization=OneCycleAdam(learning_rate=5e-4, warmup_share=0.02, weight_decay=0.02),
        augmentation=StrongAugmentation(light=0.7, noise_grey=0),
        degradation=STRONG_AND_CLEAN,
        consistency=1.0,
        # So that clean images, which suffer from learning noise, are read nearly as well as before.
        start_share=0.4,
        joint_start_share=0.4,
    ),
    # As many images as training and fine-tuning use together.
    noise_training=replace(
        UNET_CLASSIFIER,
        steps=18_000,
        augmentation=StrongAugmentation(light=0.7, noise_grey=0),
        degradation=STRONG_AND_CLEAN,
    ),
    evaluation=EvaluationRecipe(
        degradation=MIXED_NOISE,
        exploration_versions=20,
        sampling=Sampling(versions=150, half_width=0.001),
        paired_images=None,
    ),
    nets=("UNet",),
    front="UNet",
    together=True,
    wider=1.5,  # the multiply-adds of the U-Net and the sign net together
)
"""The recommended settings: the U-Net, a better sign net, and both trained together. A day on two cores."""

SMOOTHING = replace(
    UNET,
    name="smoothing",
    unet=UNET_RESTORER,
    fine_tuning=replace(
        UNET.fine_tuning,
        steps=4_000,
        degradation=SMOOTHING_NOISE,
        start_share=0.0,
        joint_start_share=0.0,
    ),
    noise_training=replace(UNET.noise_training, steps=12_000, degradation=SMOOTHING_NOISE),
)
"""As UNET, but classifiers are tuned for certificates: on Gaussian noise of any strength, not clipped."""

LARGE_PATCHES = Refinement(
    steps=6_000,
    loss=LogSquaredError(floor=3e-5),  # 45 dB
    optimization=OneCycleMuon(learning_rate=6e-4, warmup_share=0.05),
    degradation=replace(PHOTOGRAPH_NOISE, weights=(2, 6, 0.2), clean_share=0.03),
    batch=7,
    patch=192,
    start_share=0.4,  # better than either net on validation photographs, as averages often are
)
"""About as many pixels a step as before, but more of them see all around, as in whole photographs."""

PHOTOGRAPH_RESTORER = replace(
    FAST_UNET,
    steps=24_000,
    batch=16,
    patch=128,
    averaging=0.999,
    loss=LogSquaredError(floor=1e-4),  # 40 dB
    degradation=PHOTOGRAPH_NOISE,
    refinements=(
        Refinement(
            steps=14_000,
            loss=LogSquaredError(floor=5e-6),  # 53 dB
            optimization=OneCycleAdam(learning_rate=7e-4),
            degradation=replace(PHOTOGRAPH_NOISE, weights=(2, 3, 0.7), clean_share=0.05),
        ),
        Refinement(
            steps=16_000,
            loss=LogSquaredError(floor=2e-5),  # 47 dB, so that strong noise counts again
            optimization=OneCycleMuon(learning_rate=1e-3, warmup_share=0.05),
            degradation=replace(PHOTOGRAPH_NOISE, weights=(2, 5, 0.4), clean_share=0.04),
        ),
        Refinement(
            steps=24_000,
            loss=LogSquaredError(floor=2e-5),
            optimization=OneCycleMuon(learning_rate=1e-3, warmup_share=0.05),
            degradation=replace(PHOTOGRAPH_NOISE, weights=(2, 6, 0.3), clean_share=0.04),
        ),
        LARGE_PATCHES,
        # At 8e-4, for 5,000 steps, it forgot more than it learned.
        replace(
            LARGE_PATCHES,
            steps=2_000,
            optimization=OneCycleMuon(learning_rate=2e-4, warmup_share=0.05),
            start_share=0.5,
        ),
        # Strong noise counts more than clean images, which can spare half a decibel.
        replace(
            LARGE_PATCHES,
            steps=2_400,
            loss=LogSquaredError(floor=6e-5),  # 42 dB
            optimization=OneCycleMuon(learning_rate=3e-4, warmup_share=0.05),
            degradation=replace(PHOTOGRAPH_NOISE, weights=(1.5, 6, 0.2), clean_share=0.03),
            start_share=0.5,
        ),
    ),
)

PHOTOGRAPHS = replace(UNET, name="photographs", unet=PHOTOGRAPH_RESTORER)
"""Trains the U-Net on photographs: Gaussian noise up to a strength of 75, half of it as in 8-bit files."""

CAMERA = replace(
    PHOTOGRAPHS,
    name="camera",
    unet=replace(
        PHOTOGRAPH_RESTORER,
        steps=3_200,
        loss=LogSquaredError(floor=1e-5),  # 50 dB
        optimization=OneCycleMuon(learning_rate=1e-3, warmup_share=0.05),
        degradation=CAMERA_NOISE,
        refinements=(),
    ),
)
"""Goes on from a U-Net for photographs: noise as cameras make it, before and after JPEG."""

QUICK = replace(
    FAST,
    name="quick",
    restorer=replace(FAST.restorer, steps=100, patch=32),
    dong=replace(FAST.dong, steps=100, patch=32),
    unet=replace(FAST.unet, steps=400, batch=16, patch=40),
    # Many small batches without augmentation: the run is too short to learn from augmented images.
    classifier=replace(FAST.classifier, steps=450, batch=16, augmentation=None, gain=math.sqrt(2)),
    fine_tuning=replace(FAST.fine_tuning, steps=40, batch=16, augmentation=None),
    noise_training=replace(FAST.noise_training, steps=490, batch=16, augmentation=None, gain=math.sqrt(2)),
    nets=("UNet", *FAST.nets),
    front="UNet",
    together=True,
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
    unet=replace(QUICK.unet, steps=3, batch=2, patch=24),
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
        unclipped_images=4,
        paired_images=8,
    ),
)


def recipe_named(name: str) -> Recipe:
    """Returns one of the recipes of this module by its name.

    Raises:
        SettingError: If there is no recipe of that name.
    """
    recipes = (
        PAPER, PAPER_QUARTER, UNET, SMOOTHING, PHOTOGRAPHS, CAMERA, LONG, THOROUGH, FAST, QUICK, SMOKE,
    )  # fmt: skip
    by_name = {recipe.name: recipe for recipe in recipes}
    if name not in by_name:
        raise SettingError(f"there is no recipe {name!r}; choose one of {', '.join(by_name)}")
    return by_name[name]
