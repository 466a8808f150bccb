# SPDX-License-Identifier: Apache-2.0
"""All checks, by name, in the order in which they run. Nothing heavy is imported here."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """A check, and the function that runs it in a process of its own."""

    shows: str
    module: str
    function: str
    arguments: tuple[str, ...] = ()
    kind: Literal["check", "probe"] = "check"
    """A probe finds something out, and may fail."""
    limit: int = 120
    """The seconds after which the process is stopped."""
    rehearsed: bool = True
    """Whether a CPU can show anything of it that no other check shows."""


def _sums(way, shows, *arguments):
    return Check(shows, "tests.gpu.sums", way, arguments)


def _speed(count):
    title = "a measurement beside the in-place addition `p.add_(c)` of the same size"
    return Check(title, "tests.gpu.speed", "beside_addition", (count,), limit=150, rehearsed=count == "25 M")


def _strategy(name, function, devices):
    shows = f"{name}: equal to NumPy on the gathered weights; same training; resumed bit for bit"
    return Check(shows, "tests.gpu.strategies", function, (devices,), limit=180)


_LIKE_NUMPY = "equal to float64 NumPy: all pairs of precisions, odd sizes, unaligned views, zeros, inf and nan"

CHECKS = {
    **{f"sums/triton {norm}": _sums("triton", _LIKE_NUMPY, norm) for norm in ("l1", "l2", "elementwise")},
    "sums/streamed": _sums("streamed", _LIKE_NUMPY),
    "sums/plain": _sums("plain", f"{_LIKE_NUMPY}, and complex"),
    "sums/chosen": _sums("chosen", "each pair of devices and precisions is summed in its way, all in one call"),
    "metric/function": Check("`relative_weight_change` equals NumPy", "tests.gpu.metric", "function"),
    "metric/updates": Check(
        "`RelativeWeightChange` equals NumPy: all norms, channels-last weights and gaps; a sample equals that "
        "of the CPU; a restored or moved metric goes on",
        "tests.gpu.metric",
        "updates",
    ),
    "metric/snapshot on cpu": Check(
        '`snapshot_device="cpu"`: the snapshot has the same bits as on the GPU, values equal within 1e-6',
        "tests.gpu.metric",
        "snapshot_on_cpu",
    ),
    "metric/snapshot on cpu, saved at once": Check(
        "a snapshot in main memory that is saved right after `update` is complete",
        "tests.gpu.metric",
        "saved_at_once",
    ),
    "waiting/measurement": Check(
        "only the one copy of the results waits for the GPU", "tests.gpu.waiting", "measurement"
    ),
    "waiting/busy GPU": Check(
        "a measurement is queued while the GPU is busy with something else", "tests.gpu.waiting", "busy"
    ),
    "waiting/callback": Check(
        "copies to the host in a training, with and without the callback", "tests.gpu.waiting", "callback"
    ),
    **{f"speed/{count} weights": _speed(count) for count in ("25 M", "100 M", "1 B", "4 B")},
    "speed/snapshot on cpu": Check(
        '`snapshot_device="cpu"` beside copies of the same size in both directions',
        "tests.gpu.speed",
        "beside_copies",
    ),
    "speed/benchmarks": Check(
        "`python -m tests.benchmarks --only cuda`", "tests.gpu.speed", "benchmarks", limit=240, rehearsed=False
    ),
    "trainer/like the cpu": Check(
        "the history of a training equals that on the CPU within 1e-6", "tests.gpu.trainer", "like_cpu"
    ),
    "trainer/like NumPy": Check(
        "the history equals NumPy's on the recorded weights, for all norms and settings",
        "tests.gpu.trainer",
        "like_numpy",
    ),
    "trainer/same training": Check(
        "weights, losses and random numbers are the same with and without the callback, bit for bit",
        "tests.gpu.trainer",
        "same_training",
    ),
    "trainer/resume": Check(
        "a resumed run has the history of an uninterrupted one, bit for bit", "tests.gpu.trainer", "resume"
    ),
    "trainer/precisions": Check(
        "`16-true`, `bf16-true`, `16-mixed`, `bf16-mixed`: equal to NumPy", "tests.gpu.trainer", "precisions"
    ),
    "trainer/compiled": Check(
        "`torch.compile` of the module and of a part of it: equal to NumPy",
        "tests.gpu.trainer",
        "compiled",
        limit=240,
    ),
    "strategies/ddp": _strategy("DDP", "ddp", "one"),
    "strategies/ddp, all GPUs": _strategy("DDP", "ddp", "all"),
    "strategies/fsdp2": _strategy("FSDP2 (`ModelParallelStrategy`)", "fsdp2", "one"),
    "strategies/fsdp2, all GPUs": _strategy("FSDP2 (`ModelParallelStrategy`)", "fsdp2", "all"),
    "strategies/fsdp1": Check(
        "FSDP1, which the callback refuses: equal to NumPy on the gathered weights",
        "tests.gpu.strategies",
        "fsdp1",
        kind="probe",
        limit=180,
    ),
    **{
        f"strategies/deepspeed {stage}": Check(
            f"DeepSpeed, stage {stage}, which the callback refuses: equal to NumPy on the gathered weights",
            "tests.gpu.strategies",
            "deepspeed",
            (stage,),
            kind="probe",
            limit=240,
            rehearsed=False,
        )
        for stage in ("2", "3")
    },
    "training/resnet50": Check(
        "ResNet-50 on random images, `every_n_train_steps=1`", "tests.gpu.overhead", "resnet50", limit=300
    ),
    "training/transformer": Check(
        "a transformer of 1 B parameters, `every_n_train_steps=1`", "tests.gpu.overhead", "transformer", limit=300
    ),
    "training/reproduce": Check(
        "`lightning-rwc reproduce` of AlexNet on Fashion-MNIST", "tests.gpu.overhead", "reproduce", limit=300
    ),
}
