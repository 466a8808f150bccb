# SPDX-License-Identifier: Apache-2.0
"""The paper's runs, reproducible by one command: ``lightning-rwc reproduce``."""
