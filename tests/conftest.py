# SPDX-License-Identifier: Apache-2.0
import os

# Offline means offline: no error reports from the loggers' own packages.
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_SILENT"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
