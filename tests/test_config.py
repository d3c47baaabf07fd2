import pytest
from pydantic import ValidationError

from signforge.config import BalanceConfig, Config


def test_configs_are_frozen():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.gan.seed = 1


def test_class_ids_may_be_numbers():
    counts = BalanceConfig(sampling_strategy={14: 300, "Stop": 200}).sampling_strategy
    assert counts == {"14": 300, "Stop": 200}
    assert BalanceConfig(sampling_strategy="auto").sampling_strategy == "auto"
