from made_runs import made_run

from svdistill.report.comparisons import class_choice, compare, dataset_name
from svdistill.report.runs import Run

CIFAR = "parquet:data/cifar100"


def taught(path: str, **options: object) -> Run:
    return made_run(path, **{"loss": "svd", "teacher": "t", "data": CIFAR, **options})


def alone(path: str, **options: object) -> Run:
    return made_run(path, **{"data": CIFAR, **options})


def test_a_pair_on_a_data_set_is_a_comparison_and_other_paths_are_the_same_data() -> None:
    runs = [
        taught("a"),
        alone("b", data="parquet:/elsewhere/cifar100"),
        alone("c", data="digits"),
        taught("d", classes_every=5),
        alone("e", network="mobilenet_student"),
    ]
    found = [(entry.title, len(entry.runs)) for entry in compare(runs)]
    assert found == [
        ("VGG on CIFAR-100", 2),
        ("VGG on scikit-learn's digits", 1),
        ("VGG on CIFAR-100 (one class in 5)", 1),
        ("MobileNet on CIFAR-100", 1),
    ]


def test_rows_hold_seeds_in_order_teachers_and_students_alone_first() -> None:
    runs = [
        taught("a", seed=1),
        taught("b", seed=0),
        alone("c"),
        alone("d", network="vgg_teacher"),
    ]
    (comparison,) = compare(runs)
    assert [row.name for row in comparison.methods] == ["teacher", "student alone", "SVD"]
    assert comparison.methods[2].seeds == (0, 1)
    assert [row.name for row in comparison.teachers] == ["teacher"]
    assert [row.name for row in comparison.students] == ["student alone", "SVD"]


def test_students_that_were_trained_otherwise_say_how_and_compare_with_their_like() -> None:
    runs = [
        taught("a", epochs=4),
        taught("b", epochs=10),
        alone("c", epochs=10),
        alone("d", network="vgg_teacher", epochs=80),
    ]
    (comparison,) = compare(runs)
    _, student, short, long = comparison.methods
    assert [row.name for row in comparison.methods] == [
        "teacher",
        "student alone, 10 epochs",
        "SVD, 4 epochs",
        "SVD, 10 epochs",
    ]
    assert comparison.alone(long) == student
    assert comparison.alone(short) is None
    assert comparison.alone(student) is None


def test_stride_students_borrow_the_teacher_of_those_that_pool() -> None:
    teacher = alone("a", network="vgg_teacher")
    stride = taught("b", network="vgg_stride_student")
    (comparison,) = compare([teacher, stride])
    assert comparison.pair == "VGG_stride"
    assert comparison.runs == (teacher, stride)
    both = compare([teacher, stride, alone("c")])
    assert [(entry.pair, entry.runs[0]) for entry in both] == [
        ("VGG", teacher),
        ("VGG_stride", teacher),
    ]


def test_a_teacher_without_students_is_shown_alone() -> None:
    (comparison,) = compare([alone("a", network="resnext_teacher")])
    assert comparison.students == ()
    assert comparison.title == "ResNeXt on CIFAR-100"


def test_data_sets_are_called_by_their_names() -> None:
    names = {
        "digits": "scikit-learn's digits",
        "hub:uoft-cs/cifar100": "CIFAR-100",
        "tiny_imagenet:/data/tiny-imagenet-200": "Tiny-ImageNet",
        "folder:/data/ImageNet": "ImageNet",
        "folder:/data/flowers": "flowers",
    }
    assert {data: dataset_name({"data": data}) for data in names} == names
    assert class_choice({"classes_every": 2, "classes": "50@0"}) == "one class in 2, 50 classes"
    assert class_choice({"classes_every": 1, "classes": None}) == "all classes"
