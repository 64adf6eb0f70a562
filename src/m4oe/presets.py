"""What a config is where the user says nothing: by preset, and otherwise of a segmenter. Facts alone; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: Mapping[str, dict[str, Any]] = {
    "tiny": {},
    "base": {
        "model": {
            "width": 256,
            "image_size": (224, 224),
            "volume_size": (32, 96, 96),
            "encoder": {"depth": 6, "heads": 8, "dropout": 0.1},
            "specific": {"depth": 1, "num_experts": 16, "hidden": 512},
            "shared": {"num_experts": 32, "hidden": 512},
            "fusion": {"depth": 1, "num_experts": 8, "hidden": 512},
            "segmenter": {
                "size": (192, 192),
                "width": 128,
                "depths": (2, 2, 2),
                "heads": (4, 8, 16),
                "drop_path": 0.1,
            },
        },
        "train": {"max_epochs": 100, "batch_size": 32, "learning_rate": 3e-4, "patience": 20},
    },
    "paper": {
        "model": {
            "width": 768,
            "image_size": (224, 224),
            "volume_size": (32, 128, 128),
            "encoder": {
                "image": "hf:google/vit-base-patch16-224-in21k",
                "pretrained": True,
                "depth": 12,
                "heads": 12,
                "share": "input",
            },
            "specific": {"depth": 2, "num_experts": 32, "hidden": 3072, "attention": True},
            "shared": {"num_experts": 128, "hidden": 3072},
            "fusion": {"depth": 2, "num_experts": 16, "hidden": 3072},
            "segmenter": {
                "size": (224, 224),
                "stem": "patch",
                "patch": 4,
                "width": 96,
                "window": 7,
                "depths": (2, 2, 2, 2),
                "heads": (3, 6, 12, 24),
                "drop_path": 0.2,
                "labels": "heads",
            },
        },
        "train": {"max_epochs": 100, "batch_size": 32, "learning_rate": 5e-5, "weight_decay": 5e-5},
    },
}


# What a segmenter does otherwise than a classifier, whatever its preset, and by preset.
SEGMENTER: Mapping[str, Any] = {
    "phases": [
        {"name": "specialise", "routing": "modality"},
        {"name": "gate", "routing": "gate", "max_epochs": 6, "learning_rate": 3e-4},
    ],
    "train": {"learning_rate": 1e-3, "max_epochs": 30, "modality_dropout": 0.0, "class_weights": False},
}
# What a network implies: all but the first have no experts.
IMPLIED: Mapping[str, Mapping[str, str]] = {
    "swin_unet": {},
    "separate_decoders": {"experts": "none", "labels": "heads"},
}
SEGMENTER_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"train": {"learning_rate": 3e-3}},
    "base": {"train": {"max_epochs": 100, "batch_size": 32}},
    # The paper decays by 1e-4 in SGD of learning rate 0.05 and momentum 0.9: in the long run 0.05 / (1 - 0.9) * 1e-4 =
    # 5e-5 of a weight a step. AdamW decays by its learning rate times this: 1e-3 * 0.05, the same.
    "paper": {"train": {"max_epochs": 150, "batch_size": 24, "weight_decay": 0.05}},
}
