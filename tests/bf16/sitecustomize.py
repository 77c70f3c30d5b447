"""Every Python started with this folder on its path takes its processor for one that multiplies in bf16."""

import torch

torch.cpu._is_avx512_bf16_supported = lambda: True
