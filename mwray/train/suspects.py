"""Which training samples a finished run trusts least, computed again from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from mwray.data.loader import at_once
from mwray.reports import suspects as reports
from mwray.reports.suspects import SHOWN, Suspects
from mwray.train.classifier import newest, run_in
from mwray.train.loop import Session
from mwray.worker import LocalWorker


def write(folder: Path, out: Path | None = None, *, device: str | None = None) -> str:
    """Write the list, the contact sheet (of images) and the ranking of the run in `folder`; returns what they show.

    Args:
        folder: of a run with a checkpoint, or of a search: its best trial.
        out: where to; default: `suspects` in the run's folder.
        device: cpu, cuda; default: a GPU if there is one.

    Raises:
        RecordError: the folder holds no run, or no checkpoint of it.
    """
    folder = run_in(folder)
    session = restored(folder, device)
    found = suspects(session)
    images = None  # feature vectors are not shown
    if len(session.splits.shape) == 3:
        images = reports.chosen(session.splits.train.images.numpy(), found.position[:SHOWN])
    return reports.write(found, images, out or folder / "suspects")


def restored(folder: Path, device: str | None = None) -> Session:
    """The run in `folder` with the networks of its newest checkpoint, without going on with it.

    Raises:
        RecordError: the folder holds no run, or no checkpoint of it.
    """
    worker = LocalWorker(device)
    experiment, state = newest(folder, worker.device)
    session = Session(experiment, folder, worker, ())
    session.method.epoch_start(int(state["epoch"]) - 1)  # a method of two phases is in its last one
    session.method.restore(state["method"])
    return session


@torch.no_grad()
def suspects(session: Session) -> Suspects:
    """All training samples of a restored run, not augmented, the largest loss first.

    Beside it is what a learned weight function gives to that loss; where it also depends on the class, its mean over
    classes (`Method.curve`).
    """
    batches = session.train.in_order(at_once(session.splits.shape))
    logits = torch.cat([session.method.predict(batch.x) for batch in batches]).float()
    train, files = session.splits.train, session.splits.train_files
    losses = F.cross_entropy(logits, session.train.observed, reduction="none")
    curve = session.method.curve()
    loss = losses.cpu().numpy()
    weight = None if curve is None else curve(losses).float().cpu().numpy()
    position = reports.order(loss, weight)
    return Suspects(
        index=train.index.numpy()[position],
        observed=train.observed.numpy()[position],
        predicted=logits.argmax(1).cpu().numpy()[position],
        loss=loss[position],
        weight=None if weight is None else weight[position],
        true=None if train.true is None else train.true.numpy()[position],
        position=position,
        classes=session.splits.class_names,
        files=None if files is None else np.asarray(files)[train.index.numpy()[position]],
    )
