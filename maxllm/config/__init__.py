"""Typed settings and how they are read. Floor 1: no JAX, no Beam."""

from maxllm.config.errors import UserError
from maxllm.config.load import Resolved, resolve, to_yaml

__all__ = ["Resolved", "UserError", "resolve", "to_yaml"]
