# SPDX-License-Identifier: Apache-2.0
"""WeightScale (arXiv 2107.07005): find layers that learn alike by clustering their curves of relative weight change."""

from lightning_rwc.weightscale.cluster_files import save_clusters
from lightning_rwc.weightscale.clusters import LayerClusters, cluster_layers, cluster_within_kinds

__all__ = ["LayerClusters", "cluster_layers", "cluster_within_kinds", "save_clusters"]
