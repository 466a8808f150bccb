# SPDX-License-Identifier: Apache-2.0
"""Does freezing layers that have stopped learning save time, without a loss of accuracy?"""
