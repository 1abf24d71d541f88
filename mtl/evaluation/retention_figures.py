"""What training did to the encoder's general ability, as a report shows it; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from mtl.evaluation.fields import Fields


@dataclass(frozen=True, slots=True)
class Retention:
    """What training did to the encoder's general ability.

    Attributes:
        before: Spearman correlation on the pairs before training, from -1 to 1.
        after: The same for the encoder that the run leaves.
        pairs: The number of pairs.
    """

    before: float
    after: float
    pairs: int

    @property
    def change(self) -> float:
        """``after - before``; exactly 0 where the encoder was frozen."""
        return self.after - self.before

    @classmethod
    def read(cls, fields: Fields) -> Retention:
        """Return what ``metrics.json`` holds; worthless where ``fields`` note a problem."""
        return cls(fields.number("before"), fields.number("after"), fields.integer("pairs"))
