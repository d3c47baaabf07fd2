import pytest
import torch

from signforge.device import autocast, resolve_device, use_bf16
from signforge.errors import SignforgeError

CPU = torch.device("cpu")


def test_auto_takes_cuda_where_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_torch_names_are_taken_as_they_are():
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["toaster", "", "cuda:x", "gpu"])
def test_an_unknown_name_is_one_sentence(name):
    with pytest.raises(SignforgeError, match=f"Unknown device '{name}': use auto, cpu, cuda or"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "mps", "xpu"])
def test_a_device_that_is_not_there_is_one_sentence(name):
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    if name == "xpu" and torch.xpu.is_available():
        pytest.skip("this machine has an Intel GPU")
    with pytest.raises(SignforgeError, match=f"Device '{name}' was asked for, but") as error:
        resolve_device(name)
    assert "\n" not in str(error.value)


def test_precision_is_what_was_asked_for_and_auto_asks_the_hardware():
    assert use_bf16(CPU, "bf16")
    assert not use_bf16(CPU, "fp32")
    assert use_bf16(CPU, "auto") == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not use_bf16(torch.device("meta"), "auto")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_autocast_multiplies_in_the_precision(precision, dtype):
    x = torch.ones(2, 2)
    with autocast(CPU, precision):
        assert (x @ x).dtype == dtype
    assert (x @ x).dtype == torch.float32


def test_a_build_without_onednn_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops, "mkldnn", None)  # as it lacks the question, too
    assert not use_bf16(torch.device("cpu"), "auto")
