"""Sinks: who is told how a run goes - the terminal, TensorBoard, picture files."""

from __future__ import annotations

from mwray.train.sinks.base import RunInfo, Sink
from mwray.train.sinks.console import ConsoleSink
from mwray.train.sinks.pictures import PicturesSink
from mwray.train.sinks.tensorboard import TensorBoardSink

__all__ = ["ConsoleSink", "PicturesSink", "RunInfo", "Sink", "TensorBoardSink"]
