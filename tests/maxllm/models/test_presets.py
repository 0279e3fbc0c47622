"""The presets have as many parameters as the models they are named after, counted without allocating one."""

from __future__ import annotations

import pytest

from maxllm.config.load import presets_folder, resolve
from maxllm.config.train import TrainConfig
from maxllm.models import count_parameters

# As their safetensors hold them, a tied head once; of encoders what transformers counts by the same config.json.
PUBLISHED = {
    "bart-base": 139_420_416,
    "bart-large": 406_291_456,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    "deberta-base": 139_244_121,
    "deberta-large": 406_264_921,
    "deberta-v3-base": 184_551_780,
    "deberta-v3-large": 435_191_908,
    "deberta-v3-small": 142_024_548,
    "deberta-v3-xsmall": 70_958_820,
    "deberta-xlarge": 758_905_945,
    "deepseek-v3": 671_026_419_200,
    "electra-base": 109_483_009,
    "electra-large": 335_142_913,
    "electra-small": 13_549_057,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma2-27b": 27_227_128_320,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma3-1b": 999_885_952,
    "gemma3-270m": 268_098_176,
    "gpt1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-large": 774_030_080,
    "gpt2-medium": 354_823_168,
    "gpt2-xl": 1_557_611_200,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama2-7b": 6_738_415_616,
    "llama3-70b": 70_553_706_496,
    "llama3-8b": 8_030_261_248,
    "llama3.1-405b": 405_853_388_800,
    "llama3.1-70b": 70_553_706_496,
    "llama3.1-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x22b": 140_620_634_112,
    "mixtral-8x7b": 46_702_792_704,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2-57b-a14b": 57_408_658_944,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b": 14_768_307_200,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "roberta-base": 124_697_433,
    "roberta-large": 355_412_057,
    "t5-11b": 11_307_321_344,
    "t5-3b": 2_851_598_336,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-small": 60_506_624,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
}
ONE_OF_EACH = {
    "gpt1", "gpt2-xl", "llama2-70b", "llama3.1-8b", "llama3.1-405b", "mistral-7b-v0.1", "mixtral-8x7b", "qwen2.5-7b",
    "qwen2-57b-a14b", "qwen3-0.6b", "qwen3-30b-a3b", "gemma-2b", "gemma2-9b", "gemma3-1b", "deepseek-v3",
    "bert-base", "roberta-base", "electra-small", "deberta-base", "deberta-v3-base", "t5-base", "t5-v1.1-xxl",
    "bart-large",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ONE_OF_EACH else pytest.mark.slow) for name in PUBLISHED]
)
def test_a_preset_has_exactly_the_published_number_of_parameters(name: str) -> None:
    model = resolve(TrainConfig, presets_folder() / "models" / f"{name}.yml").config.model
    published = model.encoder.model_copy(update={"generator_factor": None})  # ELECTRA's discriminator alone
    assert count_parameters(model.model_copy(update={"encoder": published})) == PUBLISHED[name]
