import pytest
from pydantic import ValidationError

from signforge.config import Config


def test_configs_are_frozen():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.gan.seed = 1
