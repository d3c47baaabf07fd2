import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from signforge.device import (
    autocast,
    deterministic,
    enough_memory,
    resolve_device,
    to_device,
    use_bf16,
)
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
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() or not use_bf16(CPU, "auto")
    assert not use_bf16(torch.device("meta"), "auto")


@pytest.mark.parametrize(
    ("capabilities", "pays"),
    [
        ({"cpu_name": "Intel Xeon", "amx_bf16": False, "avx512_bf16": True}, False),
        ({"cpu_name": "Intel Xeon", "amx_bf16": True, "avx512_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "amx_bf16": False, "avx512_bf16": True}, True),
        ({"architecture": "arm64", "bf16": True}, True),
    ],
)
def test_auto_takes_bf16_on_a_cpu_where_it_is_faster(capabilities, pays, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    supported = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", supported)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert use_bf16(CPU, "auto") == pays
    assert use_bf16(CPU, "bf16")


def test_a_torch_that_tells_no_capabilities_is_asked_for_support_alone(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for supported in (True, False):
        answer = SimpleNamespace(_is_mkldnn_bf16_supported=lambda supported=supported: supported)
        monkeypatch.setattr(torch.ops, "mkldnn", answer)
        assert use_bf16(CPU, "auto") == supported


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


@pytest.fixture
def own_determinism(monkeypatch):
    """torch's settings and the environment are put back, whatever a test leaves."""
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield monkeypatch
    torch.use_deterministic_algorithms(before, warn_only=warned_only)


@pytest.mark.parametrize(("before", "warned_only"), [(False, False), (True, True), (True, False)])
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.usefixtures("own_determinism")
def test_deterministic_algorithms_are_taken_inside_and_no_longer(before, warned_only, wanted):
    torch.use_deterministic_algorithms(before, warn_only=warned_only)
    with deterministic(wanted):
        assert torch.are_deterministic_algorithms_enabled() == (wanted or before)
        assert torch.is_deterministic_algorithms_warn_only_enabled() == (warned_only and not wanted)
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.is_deterministic_algorithms_warn_only_enabled() == warned_only


@pytest.mark.parametrize(("said", "holds"), [(None, ":4096:8"), (":16:8", ":16:8")])
def test_cublas_is_told_before_its_first_product_what_the_user_does_not_say(said, holds):
    """torch notes it once, with the first product, which need not be a deterministic one."""
    script = "import os, signforge.device; print(os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    environment = {k: v for k, v in os.environ.items() if k != "CUBLAS_WORKSPACE_CONFIG"}
    if said is not None:
        environment["CUBLAS_WORKSPACE_CONFIG"] = said
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == holds


def test_what_the_user_says_of_cublas_is_kept(own_determinism):
    own_determinism.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.usefixtures("own_determinism")
def test_a_cublas_that_was_told_too_late_is_one_sentence():
    message = (
        "Deterministic behavior was enabled with `torch.use_deterministic_algorithms(True)`, but "
        "this operation is not deterministic because it uses CuBLAS. To enable it, you must set "
        "an environment variable: CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8."
    )
    refused = pytest.raises(SignforgeError, match=r"^cuBLAS repeats its bits only where CUBLAS_")
    with refused, deterministic(True):
        raise RuntimeError(message)


@pytest.mark.usefixtures("own_determinism")
def test_an_operation_without_deterministic_algorithm_is_one_sentence():
    refused = pytest.raises(SignforgeError, match=r"^put_ has no deterministic algorithm")
    with refused as error, deterministic(True):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    assert "\n" not in str(error.value)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("own_determinism")
def test_other_errors_pass_through_deterministic():
    with pytest.raises(RuntimeError, match="must match"), deterministic(True):
        torch.zeros(2) + torch.zeros(3)
    assert not torch.are_deterministic_algorithms_enabled()


def test_tensors_move_to_a_device_once():
    tensor = torch.arange(3)
    assert to_device(tensor, CPU) is tensor
    moved = to_device(tensor, torch.device("meta"))
    assert moved.device.type == "meta"
    assert moved.shape == tensor.shape


def test_a_full_gpu_is_one_sentence_that_says_what_to_lower():
    message = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free"
    refused = pytest.raises(SignforgeError, match=r"^CUDA out of memory; lower x.y, or free memory")
    with refused, enough_memory("lower x.y"):
        raise torch.OutOfMemoryError(message)
    with pytest.raises(RuntimeError, match="other"), enough_memory("lower x.y"):
        raise RuntimeError("other")


@pytest.mark.parametrize("numbers", [10**15, 2**62])
def test_a_full_cpu_is_one_sentence_that_says_what_to_lower(numbers):
    refused = pytest.raises(
        SignforgeError, match=r"^The memory is too small for this; lower x\.y\.$"
    )
    with refused, enough_memory("lower x.y"):
        torch.empty(numbers)
