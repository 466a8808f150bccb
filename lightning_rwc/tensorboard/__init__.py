# SPDX-License-Identifier: Apache-2.0
"""The RWC tab of TensorBoard: heatmap and curves of the scalars that the callback logs."""
