"""What the networks of Tables 3 and 4 are called, in records, tables and figures."""

ORIGINAL = "original"
FINE_TUNED = "fine-tuned on noisy images"
SMOOTHED = "Gaussian smoothing as first layer"
RESTORED = "restoration + original"
AUGMENTED = "strong noise augmentation"
"""The paper's four networks, and a baseline that it lacks."""

ALONE = "alone"
"""A classifier that is compared with itself behind restorers; the paper has no such rows."""

IN_TABLE_3 = {ORIGINAL: "single", RESTORED: "restoration + single"}
"""What the paper's Table 3 calls the networks that it calls otherwise in Table 4."""

IN_TABLE_4 = {SMOOTHED: "Gaussian smoothing"}
"""What the paper's Table 4 calls networks of longer names."""
