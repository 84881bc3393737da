"""Whether a teacher has something to teach on the data at hand."""

from __future__ import annotations

from typing import Final

from svdistill.training.progress import Reporter

# Share of the way from guessing to no mistake.
POOR_SKILL: Final = 0.25


def warn_of_poor_teacher(
    accuracy: float, student_accuracy: float, num_classes: int, reporter: Reporter
) -> None:
    """Say so if a teacher hardly knows the data, or knows less than its student already does.

    Args:
        accuracy: the teacher's on the test images, in percent.
        student_accuracy: the untrained student's on them, likewise.
        num_classes: of the data.
        reporter: is told.
    """
    guessing = 100 / num_classes
    if accuracy < guessing + POOR_SKILL * (100 - guessing):
        reporter.message(
            f"warning: the teacher is right on {accuracy:.1f} % of these images, a guess among "
            f"{num_classes} classes on {guessing:.1f} %. Check that its classes are these, in this "
            "order, and that it was trained on images of this size and normalisation"
        )
    elif accuracy <= student_accuracy:
        reporter.message(
            f"warning: the student begins with {student_accuracy:.1f} %, no less than its teacher: "
            "it has nothing to learn there. Use a better teacher"
        )
