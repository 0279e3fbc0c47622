"""The roofline: which part of a machine bounds a step, and what is said to be known."""

from __future__ import annotations

import pytest

from maxllm.plan.contents import read_text
from maxllm.plan.roofline import roofline
from maxllm.plan.types import Machine

MACHINE = Machine(
    name="test",
    kind="test",
    platform="gpu",
    devices=16,
    hosts=2,
    devices_per_host=8,
    topology="1x2x8",
    hbm_bytes=10**9,
    hbm_bandwidth=1e12,
    peak_flops={"bfloat16": 1e14, "fp8": 2e14},
    link_bandwidth=1e11,
    network_bandwidth=1e10,
)
MESH = {"data": 2, "fsdp": 8}

MATMUL = """  %a = {dtype}[1000,1000]{{1,0}} parameter(0)
  %b = {dtype}[1000,1000]{{1,0}} parameter(1)
  %c = bf16[1000,1000]{{1,0}} dot(%a, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
"""


def contents(body: str):
    return read_text("HloModule t\n\nENTRY %main () -> f32[] {\n" + body + "}\n", MESH)


def bounds(found) -> dict:
    return {bound.name: bound for bound in found.bounds}


def test_a_step_takes_as_long_as_its_slowest_part():
    gather = "  %g = bf16[1000,2000]{1,0} all-gather(%a), channel_id=1, replica_groups=[2,8]<=[16], dimensions={1}\n"
    found = roofline(contents(MATMUL.format(dtype="bf16") + gather), MACHINE, tokens=1600, model_flops=16e9, devices=16)
    seconds = {name: bound.seconds for name, bound in bounds(found).items()}
    assert seconds == pytest.approx(
        {"compute": 2e9 / 1e14, "memory": (3 * 2e6 + 2e6 + 4e6) / 1e12, "link": 4e6 * 7 / 8 / 1e11}
    )
    assert found.bound_by == "link" and found.step_seconds == pytest.approx(3.5e-5)
    assert found.pessimistic_seconds == pytest.approx(sum(seconds.values()))
    assert found.tokens_per_second == pytest.approx(1600 / 3.5e-5)
    assert found.tokens_per_second_per_device == pytest.approx(100 / 3.5e-5)
    assert found.mfu_ceiling == pytest.approx(16e9 / (3.5e-5 * 16 * 1e14))
    assert found.hardware_to_model_flops == pytest.approx(2.0)
    assert bounds(found)["compute"].source == "compiled"
    assert any("assumed" in note for note in found.notes)


def test_traffic_between_hosts_is_on_the_network():
    across = (
        "  %g = bf16[1000,2000]{1,0} all-gather(%a), channel_id=1, replica_groups=[8,2]<=[2,8]T(1,0), dimensions={1}\n"
    )
    found = bounds(
        roofline(contents(MATMUL.format(dtype="bf16") + across), MACHINE, tokens=1, model_flops=1, devices=16)
    )
    assert found["network"].seconds == pytest.approx(2e6 / 1e10)
    assert found["link"].seconds == pytest.approx(0)
    assert "hosts: data" in found["network"].note


def test_peaks_are_those_of_the_dtype():
    found = roofline(contents(MATMUL.format(dtype="f8e4m3fn")), MACHINE, tokens=1, model_flops=1, devices=1)
    assert bounds(found)["compute"].seconds == pytest.approx(2e9 / 2e14)
    found = roofline(contents(MATMUL.format(dtype="f32")), MACHINE, tokens=1, model_flops=1, devices=1)
    assert bounds(found)["compute"].seconds == pytest.approx(2e9 / 1e14)
    assert "f32 products taken at the bfloat16 peak" in bounds(found)["compute"].note


def test_work_that_is_not_known_is_said_and_bounded_by_the_models():
    kernel = '  %k = bf16[8,8]{1,0} custom-call(%a), custom_call_target="tpu_custom_call"\n'
    found = roofline(contents(MATMUL.format(dtype="bf16") + kernel), MACHINE, tokens=1, model_flops=64e9, devices=16)
    compute = bounds(found)["compute"]
    assert (compute.seconds, compute.source) == (pytest.approx(4e9 / 1e14), "compiled + formula")
    assert found.hardware_to_model_flops is None
    assert any("tpu_custom_call" in note for note in found.notes)


def test_a_pipelines_bubble_lengthens_the_step():
    plain, waiting = (
        roofline(contents(MATMUL.format(dtype="bf16")), MACHINE, tokens=1, model_flops=1, devices=1, bubble=bubble)
        for bubble in (0.0, 0.25)
    )
    assert waiting.step_seconds == pytest.approx(plain.step_seconds / 0.75)


def test_a_machine_nobody_knows_has_no_roofline():
    unknown = Machine("cpu", "cpu", "cpu", 1, 1, 1, "1x1", None, None, {}, None, None)
    found = roofline(contents(MATMUL.format(dtype="bf16")), unknown, tokens=1, model_flops=1, devices=1)
    assert (found.step_seconds, found.bound_by, found.tokens_per_second) == (None, "unknown", None)
    assert {bound.source for bound in found.bounds} == {"unknown"}
