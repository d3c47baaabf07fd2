"""Status lines of a training that never was."""

from signforge.gan.metrics import Status


def make_status(seen_kimg, **values) -> Status:
    base = {
        "seconds": 1.0,
        "images_per_second": 250.0,
        "discriminator_loss": 1.5,
        "generator_loss": 0.5,
        "real_logits_mean": 0.1,
        "fake_logits_mean": -0.1,
        "generator_learning_rate": 4e-4,
        "discriminator_learning_rate": 4e-4,
        "memory_mib": 100.0,
    }
    return Status(seen_kimg=seen_kimg, **(base | values))
