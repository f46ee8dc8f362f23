"""What one Meta-Weight-Net iteration costs beside plain training: time, memory, and whether it is the exact gradient.

    python -m benchmarks.step                                   ResNet-32, 100 + 100 images, on this machine's CPU
    python -m benchmarks.step --model wrn28-10 transformer --meta-batch 10 --device cuda --precision bf16

Every contender steps once in each round; its ratio is taken to plain training of the same round. "error" is the
relative difference of the weight net's gradient in the first step from double backward's.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.charts import bars, ratio_spread
from benchmarks.contenders import CONTENDERS, Contender, Task
from benchmarks.timing import interleaved, peak_bytes, quartiles, surroundings
from mwray.train.memory import keep_freed_memory

REFERENCE, BASE = "double backward", "plain training"


def main() -> None:
    """Measure, print a table for each network, write the numbers and a picture."""
    options = _options()
    logging.disable(logging.INFO)  # Betty tells of its problems at length
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.keep_freed_memory:
        keep_freed_memory()
    torch.set_float32_matmul_precision("high" if options.precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = options.precision == "tf32"
    report = {"settings": vars(options) | {"out": str(options.out)}, "where": surroundings(options.device)}
    report["networks"] = {name: measure(name, options) for name in options.model}
    for name, rows in report["networks"].items():
        _show(name, rows, options)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "step.json").write_text(json.dumps(report, indent=1))
    draw(report, options.out / "step.png")
    print(f"numbers: {options.out / 'step.json'}   picture: {options.out / 'step.png'}")


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per contender, in their order."""
    task = Task.of(name, options.batch, options.meta_batch, options.device, options.channels_last)
    contenders = [c for c in CONTENDERS + peers.importable() if not options.only or c.name in [BASE, *options.only]]
    steps: dict[str, Callable[[], object]] = {}
    slopes: dict[str, torch.Tensor] = {}
    memory: dict[str, int] = {}
    for contender in contenders:
        print(f"{name}: first steps of {contender.name}", flush=True)
        own = task.own()
        steps[contender.name] = _surrounded(contender, contender.prepare(own), options)
        if contender.steps == 1:  # of several steps the first warms up the others
            steps[contender.name]()
            slopes[contender.name] = _gradient(own)
        memory[contender.name] = peak_bytes(steps[contender.name], options.device)
    seconds = interleaved(steps, options.rounds, options.device, options.clock, options.most_seconds)
    return [_row(c, seconds, memory, slopes) for c in contenders]


def _row(
    contender: Contender, seconds: dict[str, list[float]], memory: dict[str, int], slopes: dict[str, torch.Tensor]
) -> dict[str, Any]:
    own = [s / contender.steps for s in seconds[contender.name]]
    low, middle, high = quartiles([mine / base for mine, base in zip(own, seconds[BASE], strict=True)])
    error = None
    if REFERENCE in slopes and contender.name not in (BASE, REFERENCE) and contender.steps == 1:
        exact, mine = slopes[REFERENCE], slopes[contender.name]
        error = float((mine - exact).norm() / exact.norm()) if mine.numel() else None
    return {
        "name": contender.name,
        "note": contender.note,
        "milliseconds": 1e3 * quartiles(own)[1],
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "rounds": len(own),
        "peak_bytes": memory[contender.name],
        "peak_ratio": memory[contender.name] / memory[BASE],
        "gradient_error": error,
    }


def _surrounded(contender: Contender, step: Callable[[], object], options: argparse.Namespace) -> Callable[[], object]:
    """The step in the precision asked for."""

    def run() -> None:
        with ExitStack() as stack:
            stack.enter_context(contender.surroundings())
            if options.precision == "bf16":
                stack.enter_context(torch.autocast(options.device, torch.bfloat16))
            step()

    return run


def _gradient(task: Task) -> torch.Tensor:
    slopes = [p.grad.detach().flatten().clone() for p in task.weight_net.parameters() if p.grad is not None]
    return torch.cat(slopes) if slopes else torch.empty(0)


def _show(name: str, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    table = Table(title=f"{name}, {options.batch} + {options.meta_batch} images, {options.precision}, {options.device}")
    for column in ("", "ms", "x plain", "quartiles", "peak MiB", "x plain", "error"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        low, high = row["ratio_quartiles"]
        error = "" if row["gradient_error"] is None else f"{row['gradient_error']:.1e}"
        cells = [f"{row['milliseconds']:.1f}", f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}"]
        table.add_row(row["name"], *cells, f"{row['peak_bytes'] / 2**20:.0f}", f"{row['peak_ratio']:.2f}", error)
    Console(width=110).print(table)


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars of the time ratios with their quartiles, one panel per network."""
    networks = report["networks"]
    most = max(len(rows) for rows in networks.values())
    figure = Figure(figsize=(7, (0.6 + 0.28 * most) * len(networks)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, rows) in zip(
        figure.subplots(len(networks), 1, squeeze=False)[:, 0], networks.items(), strict=True
    ):
        colors = ["#E69F00" if row["name"].startswith("mwray") else "#999999" for row in rows]
        title = f"{name}: time of an iteration relative to plain training"
        names, ratios = [row["name"] for row in rows], [row["ratio"] for row in rows]
        bars(axes, names, ratios, colors, "{:.2f}", title, spread=ratio_spread(rows))
    figure.savefig(path, dpi=150)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["resnet32"], help="networks of mwray.models, or transformer")
    parser.add_argument("--batch", type=int, default=100, help="training images in a step")
    parser.add_argument("--meta-batch", type=int, default=100, help="meta images in a step")
    parser.add_argument("--rounds", type=int, default=11, help="interleaved repeats")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="processor: for a busy machine")
    parser.add_argument("--most-seconds", type=float, default=float("inf"), help="no further round after so long")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32", help="bf16: by autocast")
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="as training has it",
    )
    parser.add_argument(
        "--keep-freed-memory",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="glibc keeps freed memory, for all contenders alike, as in mwray's training",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: as PyTorch chooses)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders beside plain training")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder of step.json and step.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
