"""Operations counted by torch against arithmetic by hand and published figures."""

import pytest
import torch
from torch import nn

from harness.flops import Flops, count


def counted(network, *inputs):
    with torch.inference_mode():
        return count(lambda: network(*inputs))


def test_a_linear_layer_multiplies_and_adds_once_for_each_weight_and_row():
    assert counted(nn.Linear(64, 32), torch.randn(5, 64)) == Flops(0, 2 * 5 * 64 * 32)


def test_a_convolution_is_counted_for_each_output_and_weight_it_sees():
    image = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
    assert counted(image, torch.randn(2, 3, 16, 16)) == Flops(2 * 2 * 8 * 8 * 8 * 3 * 9, 0)
    sound = nn.Conv1d(4, 6, kernel_size=5)
    assert counted(sound, torch.randn(1, 4, 20)) == Flops(2 * 6 * 16 * 4 * 5, 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_two_products_of_queries_keys_and_values(masked, dtype):
    """torch itself counts none for the operator that CPUs use."""
    q, k = torch.randn(2, 4, 10, 16, dtype=dtype), torch.randn(2, 4, 12, 16, dtype=dtype)
    mask = torch.ones(2, 1, 10, 12, dtype=torch.bool) if masked else None
    found = count(lambda: nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask))
    assert found == Flops(0, 2 * 2 * (2 * 4) * 10 * 12 * 16)


def test_an_encoder_layer_of_torch_is_counted_although_it_would_run_as_one_operator():
    layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True).eval()
    tokens = 2 * 10
    projections, feed_forward, attention = 4 * 32 * 32, 2 * 32 * 64, 2 * 10 * 32
    assert counted(layer, torch.randn(2, 10, 32)) == Flops(0, 2 * tokens * (projections + feed_forward + attention))
    assert torch.backends.mha.get_fastpath_enabled(), "as it was before"


def test_what_torch_does_not_compute_is_not_known_and_never_zero():
    assert count(lambda: sum(range(10))) is None
    assert count(lambda: torch.ones(3) + 1) is None


def test_resnet_50_has_the_published_82_gflop():
    """He et al. (CVPR 2016) count 3.8e9 multiply-adds, torchvision 4.09e9 for the variant that strides in the 3×3 convolution, as here."""
    from transformers import AutoConfig, AutoModel

    network = AutoModel.from_config(AutoConfig.for_model("resnet")).eval().to("meta")
    found = counted(network, torch.empty(1, 3, 224, 224, device="meta"))
    assert found.total == pytest.approx(8.2e9, rel=0.01)
    assert found.convolution == found.total


def test_minilm_has_what_its_configuration_says():
    """Six layers of width 384 with 1,536 in between: by hand, for 3 texts of 20 tokens."""
    from transformers import AutoConfig, AutoModel

    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = AutoConfig.for_model("bert", vocab_size=50, **shape)
    network = AutoModel.from_config(config, add_pooling_layer=False).eval()
    ids = torch.ones(3, 20, dtype=torch.long)
    a_token = 4 * 384 * 384 + 2 * 384 * 1536 + 2 * 20 * 384
    with torch.inference_mode():
        found = count(lambda: network(input_ids=ids, attention_mask=ids))
    assert found == Flops(0, 2 * 60 * 6 * a_token)


def test_a_compiled_network_is_counted_as_if_it_were_not():
    network = torch.compile(nn.Linear(64, 32), backend="eager")
    assert counted(network, torch.randn(5, 64)) == Flops(0, 2 * 5 * 64 * 32)
