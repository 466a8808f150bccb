# SPDX-License-Identifier: Apache-2.0
import os

from hypothesis import HealthCheck, settings

# A busy machine is no fault of a test.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# The models are too small for threads, which spin while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Offline means offline: no error reports from the loggers' own packages.
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_SILENT"] = "true"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# A busy machine may take long to start W&B's service.
os.environ["WANDB__SERVICE_WAIT"] = os.environ["WANDB_INIT_TIMEOUT"] = "300"
