# SPDX-License-Identifier: Apache-2.0
"""Known faults, built into known architectures: are they found, in the right layers, and is all quiet without them?"""
