"""The main job, training the sentiment model, beside the same model in PyTorch, on two threads.

A run is training on ten batches of the first epoch: words hidden and features dropped at random, forward, backward,
gradients clipped, Adam. What a contender returns is its loss on the first batch before all training and without
dropout, so that the comparison shows that it is the same model.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import tinyrnn as tr
from bench.record import Benchmark, Run, at_least, on_threads
from tinyrnn.train import SentimentOptions, Task, sentiment_task

BATCHES = 10
THREADS = 2


def benchmarks() -> list[Benchmark]:
    """Every record of this suite."""
    return [
        Benchmark(
            "sentiment", "training the sentiment model: embedding, LSTM in both directions, largest values, readout",
            lambda: ours(task()), {"torch": lambda: in_torch(task())}, [at_least(2.0)], work=BATCHES, unit="batch",
            threads=THREADS, clock="wall", same=1e-5,
        )
    ]  # fmt: skip


def lacking() -> str:
    """What is missing to run this suite; "" if nothing is."""
    try:
        task()
    except tr.data.MissingExtraError as error:
        return str(error)
    return ""


@cache
def task() -> Task:
    """The job as `tinyrnn train sentiment` has it; made once, since its model is copied before it is trained."""
    return sentiment_task(SentimentOptions())


def ours(job: Task) -> Run:
    """Training of a copy of the job's model."""
    model = copy.deepcopy(job.model)
    batches = job.train(0)[:BATCHES]
    optimiser = tr.optim.Adam(model.parameters(), lr=job.options.lr)
    with tr.no_grad():
        loss = job.measure(model.eval(), batches[0], None).loss.numpy()
    model.train()

    def run() -> Any:
        for batch in batches:
            optimiser.zero_grad()
            job.measure(model, batch, None).loss.backward()
            tr.clip_grad_norm(optimiser.params, job.options.clip)
            optimiser.step()
        return loss

    return on_threads(THREADS, tr.set_num_threads, run)


def in_torch(job: Task) -> Run:
    """Training of the same model in torch, with packed sequences and a fused Adam."""
    import torch

    from bench import torch_peers

    model, batches = torch_peers.Classifier(job.model), job.train(0)[:BATCHES]
    train = torch_peers.train_classifier(model, batches, job.options.lr, job.options.clip)
    return on_threads(THREADS, torch.set_num_threads, train)
