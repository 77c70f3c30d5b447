"""Every Python started with this folder on its path takes its processor for one that multiplies in bf16."""

import sys
from importlib.machinery import PathFinder


class _Finder(PathFinder):
    """Change ``torch.cpu`` when it is imported, and import nothing by itself."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target) if name == "torch.cpu" else None
        if spec is not None:
            execute = spec.loader.exec_module

            def then(module):
                execute(module)
                module._is_avx512_bf16_supported = lambda: True

            spec.loader.exec_module = then
        return spec


if "torch.cpu" in sys.modules:
    sys.modules["torch.cpu"]._is_avx512_bf16_supported = lambda: True
sys.meta_path.insert(0, _Finder)
