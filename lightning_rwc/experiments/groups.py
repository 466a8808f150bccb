# SPDX-License-Identifier: Apache-2.0
"""The groups of layers by which the paper reports."""

import re

_GROUPS = {
    # Blocks of residual networks; the stem and the classifier are in none.
    "resnet18": {f"block {number}": rf"layer{number}\." for number in (1, 2, 3, 4)},
    "resnet50": {f"block {number}": rf"layer{number}\." for number in (1, 2, 3, 4)},
    # Convolutions by number; the classifier is in none. torchvision numbers the modules between them too.
    "vgg19_bn": {
        "early": r"features\.(0|3|7|10)$",
        "middle": r"features\.(14|17|20|23|27|30|33)$",
        "later": r"features\.(36|40|43|46|49)$",
    },
    "alexnet": {"early": r"features\.0$", "middle": r"features\.(3|6)$", "later": r"features\.(8|10)$"},
}


def paper_groups(architecture: str, layers: list[str]) -> dict[str, list[str]]:
    """The layers of each of the paper's groups; architectures that it does not group are cut into three by depth.

    Example:
        >>> paper_groups("alexnet", ["features.0", "features.3", "features.6", "features.8", "classifier"])
        {'early': ['features.0'], 'middle': ['features.3', 'features.6'], 'later': ['features.8']}

    """
    if architecture not in _GROUPS:
        cuts = [round(len(layers) * part / 3) for part in range(4)]
        return {name: layers[cuts[i] : cuts[i + 1]] for i, name in enumerate(("early", "middle", "later"))}
    patterns = _GROUPS[architecture].items()
    return {group: [layer for layer in layers if re.match(pattern, layer)] for group, pattern in patterns}
