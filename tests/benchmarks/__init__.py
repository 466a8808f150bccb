# SPDX-License-Identifier: Apache-2.0
"""What is timed: ``python -m tests.benchmarks``."""
