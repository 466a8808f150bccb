# SPDX-License-Identifier: Apache-2.0
"""The groups of layers for which the paper reports results."""

import re

_GROUPS = {
    # Blocks of residual networks. The stem and the classifier are in no group.
    "resnet18": {f"block {number}": rf"layer{number}\." for number in (1, 2, 3, 4)},
    "resnet50": {f"block {number}": rf"layer{number}\." for number in (1, 2, 3, 4)},
    # Convolutions by number. The classifier is in no group. torchvision also numbers the modules between them.
    "vgg19_bn": {
        "early": r"features\.(0|3|7|10)$",
        "middle": r"features\.(14|17|20|23|27|30|33)$",
        "later": r"features\.(36|40|43|46|49)$",
    },
    "alexnet": {"early": r"features\.0$", "middle": r"features\.(3|6)$", "later": r"features\.(8|10)$"},
}


def paper_groups(architecture: str, layers: list[str]) -> dict[str, list[str]]:
    """Return the layers of each of the paper's groups. Other architectures are cut into three groups by depth.

    Example:
        >>> paper_groups("alexnet", ["features.0", "features.3", "features.6", "features.8", "classifier"])
        {'early': ['features.0'], 'middle': ['features.3', 'features.6'], 'later': ['features.8']}

    """
    if architecture not in _GROUPS:
        cuts = [round(len(layers) * part / 3) for part in range(4)]
        return {name: layers[cuts[i] : cuts[i + 1]] for i, name in enumerate(("early", "middle", "later"))}
    patterns = _GROUPS[architecture].items()
    return {group: [layer for layer in layers if re.match(pattern, layer)] for group, pattern in patterns}
