# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a training, in words."""

from lightning_rwc.findings.finding import Finding

__all__ = ["Finding"]
