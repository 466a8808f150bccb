# SPDX-License-Identifier: Apache-2.0
"""What `report_to` names, as loggers.

Where a class has the name of one of Lightning's loggers, it does what :mod:`lightning_rwc.loggers` needs of that one,
so that the same pictures and texts are written in the same way.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_rwc.training import class_names


class TensorBoardLogger:
    """Writes to the files of ``TensorBoardCallback``."""

    def __init__(self, integration: Any) -> None:
        self._integration = integration

    @property
    def experiment(self) -> Any:
        """The ``SummaryWriter``."""
        return self._integration.tb_writer

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for tag, value in metrics.items():
            self.experiment.add_scalar(tag, value, step)


class WandbLogger:
    """Writes to the run that ``WandbCallback`` has begun."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Write scalars or pages. The x axis is that of the Trainer's metrics."""
        import wandb

        wandb.log({**metrics, "train/global_step": step})

    def log_image(self, key: str, images: Sequence[Any], step: int) -> None:
        """Write pictures."""
        import wandb

        self.log_metrics({key: [wandb.Image(image) for image in images]}, step)

    def log_text(self, key: str, columns: list[Any], data: list[Any], step: int) -> None:
        """Write a table."""
        import wandb

        self.log_metrics({key: wandb.Table(columns=columns, data=data)}, step)


class MLFlowLogger:
    """Writes to the run that ``MLflowCallback`` has begun."""

    @property
    def experiment(self) -> Any:
        """The client."""
        import mlflow

        return mlflow.MlflowClient()

    @property
    def run_id(self) -> str | None:
        """The id of the run."""
        import mlflow

        run = mlflow.active_run()
        return run.info.run_id if run is not None else None

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars, without the characters in their names that MLflow does not take."""
        import mlflow

        mlflow.log_metrics({re.sub(r"[^a-zA-Z0-9_/. -]+", "", tag): value for tag, value in metrics.items()}, step=step)


class CometLogger:
    """Writes to the experiment that ``CometCallback`` has begun."""

    @property
    def experiment(self) -> Any:
        """The experiment."""
        import comet_ml

        return comet_ml.get_running_experiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        self.experiment.log_metrics(dict(metrics), step=step)


class DVCLiveLogger:
    """Writes to the log of ``DVCLiveCallback``, whose own hook would count a step for each call."""

    def __init__(self, integration: Any) -> None:
        self._integration = integration

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for tag, value in metrics.items():
            self._integration.live.log_metric(tag, value)


class _Other:
    """Gives scalars to any other integration, as the Trainer gives it its metrics."""

    def __init__(self, integration: Any, *event: Any, model: Any) -> None:
        self.integration, self._event, self._model = integration, event, model

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.integration.on_log(*self._event, logs=dict(metrics), model=self._model)


def loggers_of(callbacks: Sequence[Any], args: Any, state: Any, control: Any, model: Any) -> list[Any]:
    """A logger for each of these callbacks that is one of transformers' integrations.

    Args:
        callbacks: those of a Trainer.
        args: what hooks of callbacks get.
        state: likewise.
        control: likewise.
        model: likewise.

    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    known = tuple(INTEGRATION_TO_CALLBACK.values())
    found: list[Any] = []
    for callback in callbacks:
        names = class_names(callback)
        if "TensorBoardCallback" in names:
            found.append(TensorBoardLogger(callback))
        elif "WandbCallback" in names:
            found.append(WandbLogger())
        elif "MLflowCallback" in names:
            found.append(MLFlowLogger())
        elif "CometCallback" in names:
            found.append(CometLogger())
        elif "DVCLiveCallback" in names:
            found.append(DVCLiveLogger(callback))
        elif isinstance(callback, known):
            # Under the integration's own name, so that `register_picture_writer` takes it.
            found.append(type(type(callback).__name__, (_Other,), {})(callback, args, state, control, model=model))
    return found
