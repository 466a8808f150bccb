# SPDX-License-Identifier: Apache-2.0
"""Trainings at learning rates from far too low to far too high: what is said of them, and of those that learn well."""
