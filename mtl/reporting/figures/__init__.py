"""Figures: the pictures beside a report, SVG files that are the same for the same values.

matplotlib is imported only when a picture is drawn, so nothing that starts or fails early waits for it.
"""

from mtl.reporting.figures.learning_curves import Curve, draw_learning_curves

__all__ = ["Curve", "draw_learning_curves"]
