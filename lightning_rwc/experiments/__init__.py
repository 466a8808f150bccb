# SPDX-License-Identifier: Apache-2.0
"""The paper's experiments (arXiv 2011.06735), run by ``lightning-rwc reproduce``."""
