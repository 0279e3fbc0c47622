"""maxllm's train step, one answer a question: a line on stdin is a step, a JSON line on stdout what it took."""

from __future__ import annotations

import json
import sys
import time

import jax
import numpy as np

from maxllm.batch import Batch
from maxllm.config.compute import ComputeConfig
from maxllm.config.model import ModelConfig
from maxllm.config.parallel import MeshConfig
from maxllm.config.train import OptimizerConfig, ScheduleConfig
from maxllm.models import count_parameters, create
from maxllm.objectives import causal_lm
from maxllm.optim import make_optimizer
from maxllm.parallel.mesh import make_mesh, place_batch
from maxllm.train.state import create_state
from maxllm.train.step import make_train_step

shape, compute = json.loads(sys.argv[1]), json.loads(sys.argv[2])
batch, length = shape["batch"], shape["length"]
config = ModelConfig(
    vocab_size=shape["vocab"],
    hidden_size=shape["hidden"],
    intermediate_size=shape["intermediate"],
    num_layers=shape["layers"],
    num_heads=shape["heads"],
    num_kv_heads=shape["heads"],
    max_positions=length,
)
mesh = make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
model = create(config, ComputeConfig(**compute), mesh, seed=0)
optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-4, clip_norm=1.0), ScheduleConfig(), 10_000)
structure, state = create_state(model, optimizer, mesh)
del model
step = make_train_step(structure, causal_lm, optimizer, mesh)

tokens = np.random.default_rng(0).integers(0, shape["vocab"], (batch, length + 1)).astype(np.int32)
segment_ids = np.ones((batch, length), np.int32)  # one document a row, and yet the path that packing takes
positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
rows = Batch(tokens[:, :-1], tokens[:, 1:], segment_ids, positions, np.ones((batch, length), np.float32))

began = time.perf_counter()
state, metrics = jax.block_until_ready(step(state, place_batch(rows, mesh)))
about = {"versions": f"jax {jax.__version__}", "parameters": count_parameters(config)}
print(json.dumps(about | {"compile": time.perf_counter() - began}), flush=True)
for _ in sys.stdin:
    began, busy = time.perf_counter(), time.process_time()
    state, metrics = jax.block_until_ready(step(state, place_batch(rows, mesh)))
    answer = {"wall": time.perf_counter() - began, "cpu": time.process_time() - busy, "loss": float(metrics["loss"])}
    print(json.dumps(answer), flush=True)
