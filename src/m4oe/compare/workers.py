"""Trainings in processes of their own: one that fails, or is killed, takes no other with it; its memory is measured."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from m4oe.artifact import write_text
from m4oe.compare.trainings import Training, places
from m4oe.config import Config
from m4oe.device import peak_memory
from m4oe.errors import UserError
from m4oe.evaluate import read_table
from m4oe.runs import describe_model, train_run

COST = "cost.json"
_PROCESSES = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Order:
    """All that a process must know to train one run. splits: file of the splits that all trainings share."""

    studies: tuple[Path, ...]
    config: Config
    splits: Path
    folder: Path
    device: str

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").is_file() and (self.folder / COST).is_file()


def run_orders(
    orders: Mapping[Training, Order], jobs: int, done: Callable[[Training, str], None]
) -> dict[Training, str]:
    """Trains all that is not finished, `jobs` at a time; {training: why it failed}. `done` is told of each end."""
    failed: dict[Training, str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(_in_process, order): training for training, order in orders.items()}
        try:
            for future in as_completed(waiting):
                training, reason = waiting[future], future.result()
                failed |= {training: reason} if reason else {}
                done(training, reason)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def _in_process(order: Order) -> str:
    """Why it failed; empty where it did not."""
    if order.finished:
        return ""
    here, there = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_work, args=(order, there))
    process.start()
    there.close()
    try:
        reason = here.recv()
    except EOFError:  # it ended without a word
        process.join()
        reason = f"the process ended by itself (exit code {process.exitcode}); was there enough memory?"
    process.join()
    return str(reason)


def _work(order: Order, answer: Any) -> None:
    """The whole life of a process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    notes = order.folder.with_name(f"{order.folder.name}.failed.txt")
    try:
        train_order(order)
        notes.unlink(missing_ok=True)
        answer.send("")
    except UserError as error:
        answer.send(str(error))
    except Exception as error:
        notes.parent.mkdir(parents=True, exist_ok=True)
        write_text(notes, traceback.format_exc())
        answer.send(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')} (all of it: {notes.name})")


def _end_with_parent() -> None:
    """Who kills a comparison does not want its trainings to go on, nor to meet them when it is started again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def train_order(order: Order) -> None:
    """Trains one run and writes its cost beside it, in this process."""
    device, before = torch.device(order.device), (order.folder / "metrics.json").is_file()
    splits = read_table(order.splits).astype({"fold": int})
    train_run(order.studies, order.config, order.folder, device, splits=splits)
    peak = None if before else peak_memory(device)
    write_text(order.folder / COST, json.dumps({**cost_of(order.folder), "peak_memory": peak}, indent=1))


def cost_of(run: Path) -> dict[str, float | int | None]:
    """parameters, active_parameters and flops of an exam (of a slice); seconds_an_epoch, mean over all epochs; epochs,
    those of a second training included.

    Of a cross-validated run: size of the first fold, means over all.
    """
    from m4oe.train.refit import FOLDER

    folders = places(run)
    facts = describe_model([folders[0]], Config())
    trainings = [part for folder in folders for part in (folder, folder / FOLDER)]
    seconds = [line["seconds"] for folder in trainings for line in _log(folder)]
    return {
        "parameters": facts["parameters"],
        "active_parameters": facts["active for one exam"],
        "flops": facts["FLOPs for one exam"],
        "seconds_an_epoch": sum(seconds) / len(seconds) if seconds else None,
        "epochs": len(seconds) / len(folders),
    }


def _log(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "log.jsonl"
    lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else ()
    yield from map(json.loads, lines)
