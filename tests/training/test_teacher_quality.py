import pytest

from svdistill.training.progress import Reporter
from svdistill.training.teacher import warn_of_poor_teacher


class Heard(Reporter):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize(
    ("accuracy", "student", "num_classes", "word"),
    [
        (10.0, 9.0, 10, "a guess among 10 classes on 10.0 %"),
        (30.0, 10.0, 10, "the teacher is right on 30.0 %"),
        (60.0, 50.0, 2, "the teacher is right on 60.0 %"),
        (80.0, 85.0, 10, "the student begins with 85.0 %"),
    ],
)
def test_a_teacher_with_little_to_teach_is_told(
    accuracy: float, student: float, num_classes: int, word: str
) -> None:
    heard = Heard()
    warn_of_poor_teacher(accuracy, student, num_classes, heard)
    assert len(heard.messages) == 1
    assert word in heard.messages[0]


@pytest.mark.parametrize(("accuracy", "num_classes"), [(33.0, 10), (63.0, 2), (26.0, 100)])
def test_a_teacher_that_knows_something_is_not(accuracy: float, num_classes: int) -> None:
    heard = Heard()
    warn_of_poor_teacher(accuracy, 12.0, num_classes, heard)
    assert heard.messages == []
