"""One seed for each place in a run.

torch's CPU generator reads only the low 32 bits of a seed, so keys must be hashed, not packed.
"""

import hashlib
import operator


def derive_seed(*parts: int) -> int:
    """A seed in 0..2^63-1 from integers; different parts give unrelated seeds.

    numpy's integers count as what they are. Raises TypeError for what is no integer.
    """
    numbers = tuple(int(operator.index(part)) for part in parts)
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
