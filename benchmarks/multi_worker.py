"""TensorFlow's network on two workers under ``MultiWorkerMirroredStrategy``, against one: ``python -m benchmarks.multi_worker``.

Says whether Keras's ``fit`` works there, and what a step of our own costs: the trainer's network and optimizer, whose gradients are
summed over the workers. Every process has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from complex_system.local.servers import free_port

WAYS = ("own step, alone", "own step, two workers", "fit, two workers")
ROUNDS, STEPS, WARM = 3, 300, 50
ROWS, BATCH, WIDTH, MEMBERS = 20_000, 64, 16, 1
"""A large training has one member, and batches of this size for each worker (``network.members_for``, ``network_batch``)."""


def worker(way: str) -> None:
    """Print the processor and wall time of a step, in milliseconds, and the sum of the weights: equal on workers that exchange."""
    from complex_system.training import tensorflow as ours

    tf, keras = ours.tf, ours.keras
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    draw = np.random.default_rng(int(os.environ.get("RANK", "0")))
    x = draw.normal(size=(ROWS, WIDTH)).astype(np.float32)
    y = x[:, :1] + np.sin(x[:, 1:2])
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if "TF_CONFIG" in os.environ else tf.distribute.get_strategy()
    with strategy.scope():
        core = ours._core(WIDTH, MEMBERS, 1)
        optimizer = keras.optimizers.Adam(1e-3)
        if way.startswith("fit"):
            core.compile(optimizer, "mse")
            core.fit(x, y, batch_size=BATCH, epochs=1, verbose=0)
        else:
            optimizer.build(core.trainable_variables)

    def step(xs: object, ys: object) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(core(xs, training=True) - ys)) + tf.add_n(core.losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, core.trainable_variables), core.trainable_variables, strict=True))

    @tf.function
    def steps(count: object) -> None:
        for each in tf.range(count):
            start = (each * BATCH) % (ROWS - BATCH)
            strategy.run(step, args=(tf.constant(x)[start : start + BATCH], tf.constant(y)[start : start + BATCH]))

    steps(tf.constant(WARM))
    wall, processor = time.perf_counter(), time.process_time()
    steps(tf.constant(STEPS))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    weights = sum(float(np.abs(each).sum()) for each in core.get_weights())
    sys.stdout.write(json.dumps([1e3 * processor / STEPS, 1e3 * wall / STEPS, weights]) + "\n")


def measured(way: str) -> list[list[float]]:
    """Run a way; return what each worker printed."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(1 if "alone" in way else 2)]
    running = []
    for index in range(len(addresses)):
        environment = {**os.environ, "RANK": str(index), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
        if len(addresses) > 1:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(task)
        code = f"from benchmarks import multi_worker; multi_worker.worker({way!r})"
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        said = [each.communicate(timeout=180) for each in running]
    finally:
        for each in running:
            each.kill()
    for each, (_, error) in zip(running, said, strict=True):
        if each.returncode:
            raise RuntimeError(" ".join(error.strip().splitlines()[-3:])[-600:])
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.multi_worker", description=__doc__).parse_args()
    found: dict[str, list[list[float]]] = {}
    for _ in range(ROUNDS):
        for way in WAYS:
            try:
                workers = measured(way)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                sys.stdout.write(f"{way}: {error}\n")
                continue
            found.setdefault(way, []).append([max(values) for values in zip(*workers, strict=True)])
            assert len({round(each[2], 3) for each in workers}) == 1, "the workers' weights differ"
    for way, rounds in found.items():
        processor, wall, _ = (
            f"{statistics.median(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in zip(*rounds, strict=True)
        )
        sys.stdout.write(f"{way}: {processor} ms of processor time a step, {wall} ms in all\n")


if __name__ == "__main__":
    main()
