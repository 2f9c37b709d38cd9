"""PyTorch for the tests against other libraries' outputs."""

import pytest


@pytest.fixture(scope="session")
def torch():
    """PyTorch, or a skip.

    timm and transformers import torchvision where it is installed, for pictures only. One built for CUDA does not
    import beside PyTorch for CPUs, since two operators that it describes are missing: they are named here, and never
    called.
    """
    torch = pytest.importorskip("torch")
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except ImportError:
        pass
    return torch
