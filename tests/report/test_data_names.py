from svdistill.report.runs import class_choice, dataset_name


def test_data_sets_are_called_by_their_names() -> None:
    names = {
        "digits": "scikit-learn's digits",
        "hub:uoft-cs/cifar100": "CIFAR-100",
        "tiny_imagenet:/data/tiny-imagenet-200": "Tiny-ImageNet",
        "folder:/data/ImageNet": "ImageNet",
        "folder:/data/flowers": "flowers",
        "folder:/data/digits": "digits",
        "object": "images given in Python",
    }
    assert {data: dataset_name({"data": data}) for data in names} == names
    assert class_choice({"classes_every": 2, "classes": "50@0"}) == "one class in 2, 50 classes"
    assert class_choice({"classes_every": 1, "classes": None}) == "all classes"
