# SPDX-License-Identifier: Apache-2.0
"""Three small networks for grey images of 32x32 pixels, each as a chain of blocks that can be frozen in turn."""

from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.vgg import make_layers

_WIDTH, _CLASSES = 16, 10  # a quarter of the usual width


class Chain(nn.Sequential):
    """A network whose children are its blocks, in the order of the forward pass."""

    def costs(self, images):
        """Count the floating-point operations of the forward pass of each block."""
        costs = []
        for block in self:
            with FlopCounterMode(display=False) as counter:
                images = block(images)
            costs.append(counter.get_total_flops())
        return costs


def resnet18():
    """ResNet-18 with a stem of three convolutions, and no pooling after it."""
    channels = (_WIDTH, 2 * _WIDTH, 4 * _WIDTH, 8 * _WIDTH)
    size = {"channels": channels, "stem_type": "deep", "stem_width": _WIDTH // 2}
    net = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=_CLASSES, in_chans=1, **size)
    stem = nn.Sequential(net.conv1, net.bn1, net.act1)
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage]
    return Chain(stem, *blocks, nn.Sequential(net.global_pool, net.fc))


def vgg11():
    """VGG-11 with batch norm and a head of one layer."""
    widths = [_WIDTH * factor for factor in (1, 2, 4, 4, 8, 8, 8, 8)]
    pools_after = {0, 1, 3, 5}
    channels = [part for n, width in enumerate(widths) for part in ([width, "M"] if n in pools_after else [width])]
    layers = list(make_layers(channels, batch_norm=True))
    layers[0] = nn.Conv2d(1, widths[0], 3, padding=1)
    starts = [n for n, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    blocks = [nn.Sequential(*layers[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)]
    blocks[0].insert(0, nn.AvgPool2d(2))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], _CLASSES))
    return Chain(*blocks, head)


class _Tokens(nn.Module):
    """The start of a vision transformer: patches and their positions."""

    def __init__(self, net):
        super().__init__()
        self.patch_embed, self.pos_embed = net.patch_embed, net.pos_embed

    def forward(self, images):
        return self.patch_embed(images) + self.pos_embed


class _Head(nn.Module):
    """The end of a vision transformer: the scores, from the mean of all tokens."""

    def __init__(self, net):
        super().__init__()
        self.norm, self.head = net.fc_norm, net.head

    def forward(self, tokens):
        return self.head(self.norm(tokens.mean(1)))


def transformer():
    """A vision transformer of six blocks on 16 patches."""
    size = {"embed_dim": 64, "depth": 6, "num_heads": 4}
    what = {"class_token": False, "global_pool": "avg", "num_classes": _CLASSES, "in_chans": 1}
    net = VisionTransformer(img_size=32, patch_size=8, **size, **what)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()  # timm's standard deviation of 0.02 is for larger networks
    return Chain(_Tokens(net), *net.blocks, _Head(net))


NETWORKS = {"ResNet-18": resnet18, "VGG-11": vgg11, "transformer": transformer}
