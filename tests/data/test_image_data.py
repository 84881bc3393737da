import shutil
import socket
from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from picture_files import NAMES, in_order, in_turn, noise, table, write_folder, write_parquet
from svdistill.common.errors import ArgumentError, DataError
from svdistill.common.machine import available_cores
from svdistill.data import DataWarning, ResidentSplit, StreamedSplit, load_images

IMAGES, LABELS = noise(60), in_turn(60)
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    """A Parquet folder with all images to train on, and the last 12 once more to test on."""
    folder = tmp_path_factory.mktemp("insects")
    write_parquet(folder / "train-0.parquet", IMAGES, LABELS)
    write_parquet(folder / "test-0.parquet", IMAGES[48:], LABELS[48:])
    return f"parquet:{folder}"


def multiset(*splits):
    """The images of some splits with their labels, without their order."""
    found = Counter()
    for split in splits:
        for image, label in zip(*in_order(split), strict=True):
            found[image.tobytes(), int(label)] += 1
    return found


# Digits


def test_digits_are_counted_and_stratified(digits):
    assert (len(digits.train), len(digits.test), digits.dev) == (1078, 719, None)
    assert digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.image_shape == (3, 16, 16)
    everything = np.bincount(load_digits().target)
    for split, share in ((digits.train, 0.6), (digits.test, 0.4)):
        assert abs(np.bincount(split.labels) - share * everything).max() < 1


def test_digits_are_those_of_scikit_learn(digits):
    pairs = in_order(digits.train), in_order(digits.test)
    images, labels = map(np.concatenate, zip(*pairs, strict=True))
    assert images.shape == (1797, 16, 16, 3)
    assert images.dtype == np.uint8
    assert (images == images[..., :1]).all()
    assert (images.min(), images.max()) == (0, 255)
    source = load_digits()
    enlarged = np.stack(
        [
            Image.fromarray(image.astype(np.float32) * (255 / 16)).resize((16, 16), 2)
            for image in source.images
        ]
    )
    ours = torch.from_numpy(images[..., 0]).flatten(1).float()
    nearest = torch.cdist(ours, torch.from_numpy(enlarged).flatten(1)).argmin(dim=1).numpy()
    assert sorted(nearest) == list(range(1797))  # every digit once
    assert abs(images[..., 0] - enlarged[nearest]).max() <= 0.51
    assert np.array_equal(labels, source.target[nearest])


def test_digits_are_the_same_every_time(digits):
    torch.manual_seed(99)
    again = load_images("digits", seed=5)  # which decides what is kept, not what there is
    assert torch.equal(again.train.images, digits.train.images)
    assert torch.equal(again.test.labels, digits.test.labels)
    assert again.fingerprint == digits.fingerprint
    assert (again.mean, again.std) == (digits.mean, digits.std)


# Statistics


@pytest.mark.parametrize("memory_limit_gb", [8.0, 0])
def test_statistics_are_those_of_the_training_images(insects, memory_limit_gb):
    data = load_images(insects, train_size=30, memory_limit_gb=memory_limit_gb)
    images = in_order(data.train)[0] / 255
    assert data.mean == pytest.approx(images.mean(axis=(0, 1, 2)), abs=1e-12)
    assert data.std == pytest.approx(images.std(axis=(0, 1, 2)), abs=1e-12)


def test_statistics_of_many_streamed_images_come_from_some_of_them(insects, monkeypatch):
    monkeypatch.setattr("svdistill.data.image_data.SAMPLED_IMAGES", 20)
    data = load_images(insects, memory_limit_gb=0)
    sample = IMAGES[np.linspace(0, 59, 20).astype(int)] / 255
    assert data.mean == pytest.approx(sample.mean(axis=(0, 1, 2)), abs=1e-12)


def test_a_channel_that_never_changes_is_not_divided_by_zero(tmp_path):
    images = IMAGES.copy()
    images[..., 1] = 51
    data = load_images(f"folder:{write_folder(tmp_path, images, LABELS)}")
    assert data.mean[1] == pytest.approx(0.2)
    assert data.std[1] == pytest.approx(1 / 255)


# Streamed or in memory


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("order_seed", [None, 4])
def test_streamed_equals_resident(insects, workers, order_seed):
    options = {"dev_fraction": 0.2, "train_size": 31, "classes_every": 2, "image_size": 9}
    resident = load_images(insects, **options)
    streamed = load_images(insects, memory_limit_gb=0, **options)
    for name in SPLITS:
        one, other = getattr(resident, name), getattr(streamed, name)
        assert isinstance(one, ResidentSplit)
        assert isinstance(other, StreamedSplit)
        other.workers = workers
        assert torch.equal(one.labels, other.labels)
        batches = [
            list(split.batches(4, device="cpu", order_seed=order_seed)) for split in (one, other)
        ]
        for a, b in zip(*batches, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    for name in ("class_names", "mean", "std", "image_shape", "fingerprint"):
        assert getattr(resident, name) == getattr(streamed, name)


def test_the_memory_limit_counts_all_decoded_images(insects):
    decoded = (60 + 12) * 3 * 8 * 8
    assert isinstance(load_images(insects, memory_limit_gb=decoded / 1e9).test, ResidentSplit)
    less = load_images(insects, memory_limit_gb=(decoded - 1) / 1e9)
    assert isinstance(less.test, StreamedSplit)
    assert less.test.workers == min(8, available_cores())
    assert load_images(insects, memory_limit_gb=0, workers=3).train.workers == 3


# Sizes


def test_test_images_of_another_size(tmp_path):
    write_folder(tmp_path / "train", IMAGES[:6], LABELS[:6])
    write_folder(tmp_path / "test", noise(3, 10), in_turn(3))
    with pytest.raises(DataError, match=r"expected test images of 8x8 .*got 10x10; .*image_size"):
        load_images(f"folder:{tmp_path}")
    assert load_images(f"folder:{tmp_path}", image_size=9).image_shape == (3, 9, 9)


@pytest.mark.parametrize("odd", [noise(1, 9)[0], noise(1)[0, :6]])
def test_a_fallback_size_is_used_where_sizes_differ_and_all_is_told_once(tmp_path, odd):
    write_folder(tmp_path, IMAGES[:30], LABELS[:30])
    (tmp_path / "ant" / "notes.txt").touch()
    spec = f"folder:{tmp_path}"
    assert load_images(spec, fallback_size=10).image_shape == (3, 8, 8)
    Image.fromarray(odd).save(tmp_path / "bee" / "odd.png")
    with pytest.warns(DataWarning) as told:
        data = load_images(spec, fallback_size=10)
    assert data.fingerprint == load_images(spec, image_size=10).fingerprint
    assert [str(note.message).partition(": ")[2][:13] for note in told] == [
        "left out 1 fi",
        "images differ",
    ]
    (tmp_path / "ant" / "000.png").write_text("damaged")
    with pytest.raises(DataError, match="no image format"):
        load_images(spec, fallback_size=10)


# Links


def split_folders(root):
    for split in ("train", "test"):
        write_folder(root / split, noise(6, seed=len(split)), in_turn(6))
    return f"folder:{root}"


@pytest.mark.parametrize("link", ["split", "classes", "files", "hard links"])
def test_a_test_split_of_links_to_the_training_images_is_refused(tmp_path, link):
    spec = split_folders(tmp_path)
    train, test = tmp_path / "train", tmp_path / "test"
    shutil.rmtree(test)
    if link == "split":
        test.symlink_to(train)
    for name in NAMES if link != "split" else ():
        (test / name).parent.mkdir(exist_ok=True)
        if link == "classes":
            (test / name).symlink_to(train / name)
            continue
        (test / name).mkdir()
        for file in (train / name).iterdir():
            target = test / name / f"other-{file.name}"
            target.symlink_to(file) if link == "files" else target.hardlink_to(file)
    with pytest.raises(DataError, match=r"test images other than .*got the same files"):
        load_images(spec)
    assert len(load_images(spec, test_split="cut").test) == 1


def test_single_links_are_told(tmp_path):
    spec = split_folders(tmp_path)
    (tmp_path / "test" / "ant" / "x.png").symlink_to(tmp_path / "train" / "ant" / "000.png")
    (tmp_path / "train" / "bee" / "x.png").symlink_to(tmp_path / "train" / "ant" / "000.png")
    with pytest.warns(DataWarning) as told:
        load_images(spec)
    messages = [str(note.message).partition(": ")[2] for note in told]
    assert messages == [
        "1 image(s) in train are files that are in it already",
        "1 of 7 test images are in train too",
    ]


def test_a_copy_of_the_training_images_to_test_on_is_told(tmp_path):
    for split in ("train", "test"):
        write_folder(tmp_path / split, IMAGES[:6], LABELS[:6])
    with pytest.warns(DataWarning, match="the test images are the training images"):
        load_images(f"folder:{tmp_path}")


# Parts


@pytest.mark.parametrize("step", [2, 3, 5])
def test_every_nth_class_is_kept_and_renumbered(digits, step):
    part = load_images("digits", classes_every=step)
    assert part.class_names == digits.class_names[::step]
    for name in ("train", "test"):
        images, labels = in_order(getattr(digits, name))
        kept = labels % step == 0
        assert np.array_equal(in_order(getattr(part, name))[0], images[kept])
        assert np.array_equal(in_order(getattr(part, name))[1], labels[kept] // step)


def test_drawn_classes_are_kept_and_renumbered(digits):
    part = load_images("digits", classes="4@0")
    kept = [digits.class_names.index(name) for name in part.class_names]
    assert len(kept) == 4
    assert kept == sorted(kept)
    for name in ("train", "test"):
        images, labels = in_order(getattr(digits, name))
        ours = in_order(getattr(part, name))
        assert np.array_equal(ours[0], images[np.isin(labels, kept)])
        assert np.array_equal(np.array(kept)[ours[1]], labels[np.isin(labels, kept)])
    assert load_images("digits", classes="10@3").fingerprint == digits.fingerprint


def test_the_dev_split_is_held_out_of_the_training_images(insects):
    data = load_images(insects, dev_fraction=0.3)
    assert np.bincount(data.train.labels).tolist() == [14, 14, 14]
    assert np.bincount(data.dev.labels).tolist() == [6, 6, 6]
    assert multiset(data.train, data.dev) == multiset(load_images(insects).train)
    assert not multiset(data.train) & multiset(data.dev)
    assert multiset(data.test) == multiset(load_images(insects).test)


def test_the_dev_split_does_not_depend_on_train_size(insects):
    data = load_images(insects, dev_fraction=0.3, train_size=9)
    assert np.bincount(data.train.labels).tolist() == [3, 3, 3]
    assert multiset(data.dev) == multiset(load_images(insects, dev_fraction=0.3).dev)
    assert multiset(data.train) <= multiset(load_images(insects, dev_fraction=0.3).train)


def test_the_seed_decides_what_is_kept(insects):
    kept = [multiset(load_images(insects, train_size=30, seed=seed).train) for seed in (1, 1, 2, 3)]
    assert kept[0] == kept[1]
    assert len({frozenset(part) for part in kept}) == 3
    held_out = [multiset(load_images(insects, dev_fraction=0.5, seed=seed).dev) for seed in (1, 2)]
    assert held_out[0] != held_out[1]


# The fingerprint


def changed(images=IMAGES, labels=LABELS, names=NAMES):
    return images, labels, names


def with_other_pixel(number):
    images = IMAGES.copy()
    images[number, 7, 7, 2] ^= 1
    return images


def with_other_label(number):
    labels = LABELS.copy()
    labels[number] = (labels[number] + 1) % 3
    return labels


def fingerprint(folder, content, **options):
    """Of this content to train on; what there is to test on stays the same."""
    write_parquet(folder / "train-0.parquet", *content)
    write_parquet(folder / "test-0.parquet", IMAGES[:6], LABELS[:6], content[2])
    return load_images(f"parquet:{folder}", **options).fingerprint


def test_the_fingerprint_tells_what_the_data_is_not_where(tmp_path):
    one, other = (fingerprint(tmp_path / name, changed()) for name in ("here", "there"))
    assert one == other
    assert len(one) == 16
    assert int(one, 16) >= 0


@pytest.mark.parametrize(
    "content",
    [
        changed(images=with_other_pixel(0)),
        changed(images=with_other_pixel(59)),
        changed(labels=with_other_label(0)),
        changed(labels=with_other_label(41)),
        changed(names=("ant", "bee", "cow")),
        changed(IMAGES[::-1], LABELS[::-1]),
        changed(IMAGES[:-1], LABELS[:-1]),
    ],
    ids=["first pixel", "last pixel", "first label", "a label", "name", "order", "fewer"],
)
def test_the_fingerprint_changes_with_the_data(tmp_path, content):
    assert fingerprint(tmp_path / "new", content) != fingerprint(tmp_path / "old", changed())


def test_the_fingerprint_changes_with_the_parts(tmp_path):
    options = [
        {},
        {"dev_fraction": 0.2},
        {"dev_fraction": 0.2, "seed": 1},
        {"train_size": 30},
        {"train_size": 30, "seed": 1},
        {"classes_every": 2},
        {"classes": "2@0"},
        {"image_size": 10},
    ]
    prints = {fingerprint(tmp_path, changed(), **option) for option in options}
    assert len(prints) == len(options)


def test_a_changed_file_is_read_again(tmp_path):
    one = fingerprint(tmp_path, changed())
    assert fingerprint(tmp_path, changed(labels=with_other_label(3))) != one


# The network


@pytest.fixture
def no_network(monkeypatch):
    """Note every attempt to find or to reach another machine."""
    attempts = []

    def refuse(*arguments, **options):
        attempts.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def test_only_hub_touches_the_network(insects, tmp_path, no_network):
    load_images("digits")
    load_images(insects)
    load_images(f"folder:{write_folder(tmp_path, IMAGES, LABELS)}")
    assert no_network == []
    with pytest.raises(OSError, match="no network here"):
        socket.create_connection(("huggingface.co", 443))
    assert len(no_network) == 1


def test_a_data_set_of_the_hub(monkeypatch, insects):
    splits = datasets.DatasetDict(train=table(IMAGES, LABELS), test=table(IMAGES[48:], LABELS[48:]))
    expected = load_images(insects)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: splits)
    assert load_images("hub:insects").fingerprint == expected.fingerprint


# Tables that are loaded already


def test_a_dataset_gets_its_test_split_cut_off(tmp_path):
    data = load_images(table(IMAGES, LABELS))
    stored = load_images(f"parquet:{write_parquet(tmp_path / 'a.parquet', IMAGES, LABELS)}")
    assert data.fingerprint == stored.fingerprint
    assert (len(data.train), len(data.test), data.class_names) == (48, 12, NAMES)


def test_a_dataset_dict_is_what_its_splits_are(insects):
    splits = datasets.DatasetDict(train=table(IMAGES, LABELS), test=table(IMAGES[48:], LABELS[48:]))
    options = {"classes_every": 2, "train_size": 30, "dev_fraction": 0.2, "image_size": 9}
    for extra in ({}, {"memory_limit_gb": 0}):
        data = load_images(splits, **options, **extra)
        assert data.fingerprint == load_images(insects, **options).fingerprint


def test_rows_that_were_chosen_and_shuffled_are_taken_so():
    rows = np.random.default_rng(0).permutation(60)[:40]
    chosen = table(IMAGES, LABELS).select(rows)
    data = load_images(datasets.DatasetDict(train=chosen, test=chosen.shuffle(seed=0)))
    images, labels = in_order(data.train)
    assert np.array_equal(images, IMAGES[rows])
    assert np.array_equal(labels, LABELS[rows])
    assert multiset(data.train) == multiset(data.test)


def test_how_a_dataset_shows_its_rows_does_not_matter():
    plain = table(IMAGES, LABELS)
    expected = load_images(plain).fingerprint
    assert load_images(plain.with_format("numpy")).fingerprint == expected
    assert load_images(plain.with_transform(lambda rows: {"x": [0] * 9})).fingerprint == expected


def streaming():
    return table(IMAGES, LABELS).to_iterable_dataset()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (streaming, "got IterableDataset; load it without streaming=True"),
        (lambda: datasets.DatasetDict(), "got DatasetDict; give one of these"),
        (lambda: IMAGES, "got ndarray; give one of these; for a DataLoader see images_from"),
        (lambda: None, "got NoneType"),
    ],
)
def test_what_is_no_data_set(spec, message):
    with pytest.raises(ArgumentError, match=f"data: expected a text such as .*, {message}"):
        load_images(spec())


def test_splits_of_other_classes():
    other = table(IMAGES, LABELS, ("ant", "bee", "cow"))
    with pytest.raises(DataError, match="DatasetDict: expected the same columns and class names"):
        load_images(datasets.DatasetDict(train=table(IMAGES, LABELS), test=other))


def test_a_dataset_without_labels():
    with pytest.raises(
        DataError, match=r"Dataset: expected a label column \(ClassLabel\), or .* got .*img"
    ):
        load_images(table(IMAGES, LABELS).remove_columns("label"))


# Bad arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes_every": 0}, "classes_every: expected an integer of at least 1, got 0"),
        ({"classes_every": 2.0}, "classes_every: expected an integer"),
        ({"classes_every": True}, "classes_every: expected an integer"),
        ({"classes_every": 10}, "classes_every: .*leaves 2 or more of 10 classes, got 10; .*small"),
        ({"classes": "11@0"}, "classes: expected at most 10 classes, as many as there are, got 11"),
        ({"classes": "ten"}, "classes: expected N@SEED, such as 50@0: .*got 'ten'"),
        ({"classes": "6@0", "classes_every": 2}, "classes: expected at most 5 classes"),
        ({"train_size": 9}, r"train_size: expected 10 \(one image per class\) to 1078 .*, got 9"),
        ({"train_size": 1079}, r"train_size: expected 10 .* to 1078 \(all .*\), got 1079"),
        ({"train_size": 971, "dev_fraction": 0.1}, "train_size: expected 10 .* to 970"),
        ({"train_size": 20.5}, "train_size: expected an integer of at least 1, got 20.5"),
        ({"train_size": "20"}, "train_size: expected an integer of at least 1, got '20'"),
        ({"train_size": 0}, "train_size: expected an integer of at least 1, got 0"),
        ({"dev_fraction": 1}, "dev_fraction: expected a number from 0 to below 1, got 1"),
        ({"dev_fraction": -0.1}, "dev_fraction: expected a number from 0 to below 1, got -0.1"),
        ({"dev_fraction": float("nan")}, "dev_fraction: .*got nan"),
        ({"dev_fraction": "0.1"}, "dev_fraction: .*got '0.1'"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"image_size": 7}, "image_size: expected an integer of at least 8, got 7"),
        ({"memory_limit_gb": -1}, "memory_limit_gb: expected a number from 0"),
        ({"memory_limit_gb": float("nan")}, "memory_limit_gb: .*got nan"),
        ({"workers": -1}, "workers: expected an integer of at least 0, got -1"),
        ({"fallback_size": 7}, "fallback_size: expected an integer of at least 8, got 7"),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(ArgumentError, match=message):
        load_images("digits", **options)


@pytest.mark.parametrize(
    ("dev_fraction", "split"), [(1e-9, "dev"), (0.9999, "train")], ids=["dev", "train"]
)
def test_a_fraction_that_leaves_nothing(dev_fraction, split):
    with pytest.raises(DataError, match=f"digits, {split} split: expected at least one image"):
        load_images("digits", dev_fraction=dev_fraction)


def test_too_few_images_to_cut_a_test_split(tmp_path):
    write_folder(tmp_path, IMAGES[:2], [0, 1])
    with pytest.raises(DataError, match="test split: expected at least one image, got none"):
        load_images(f"folder:{tmp_path}")


def test_a_truncated_image_is_found_when_loading(tmp_path):
    write_folder(tmp_path, IMAGES, LABELS)
    broken = tmp_path / "bee" / "031.png"
    broken.write_bytes(broken.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"bee.031\.png: .*truncated"):
        load_images(f"folder:{tmp_path}")


# CIFAR-100


@pytest.fixture(scope="session")
def images_of_cifar100(cifar100):
    return load_images(f"parquet:{cifar100}")


@pytest.mark.cifar100
def test_cifar100_is_whole(images_of_cifar100):
    data = images_of_cifar100
    assert (len(data.train), len(data.test), data.dev) == (50_000, 10_000, None)
    assert data.image_shape == (3, 32, 32)
    assert len(set(data.class_names)) == data.num_classes == 100
    assert (data.class_names[0], data.class_names[99]) == ("apple", "worm")
    assert np.bincount(data.train.labels).tolist() == [500] * 100
    assert np.bincount(data.test.labels).tolist() == [100] * 100


def moments(*splits):
    """Mean and standard deviation of each channel, from 0 to 255, in exact integer sums."""
    sums = np.zeros((3, 3))
    for split in splits:
        for channel in range(3):
            values = split.images[:, channel].numpy()
            squares = np.square(values, dtype=np.uint16)
            sums[:, channel] += values.size, values.sum(dtype=np.int64), squares.sum(dtype=np.int64)
    mean = sums[1] / sums[0]
    return mean, np.sqrt(sums[2] / sums[0] - mean**2)


@pytest.mark.cifar100
def test_statistics_of_cifar100(images_of_cifar100):
    data = images_of_cifar100
    mean, std = moments(data.train)
    assert data.mean == pytest.approx(mean / 255, abs=1e-9)
    assert data.std == pytest.approx(std / 255, abs=1e-9)
    # The paper's authors count the test images in; we do not.
    mean, std = moments(data.train, data.test)
    assert mean == pytest.approx([129.38, 124.11, 112.48], abs=0.005)
    assert std == pytest.approx([68.21, 65.43, 70.46], abs=0.005)
    assert np.multiply(255, data.mean) == pytest.approx([129.38, 124.11, 112.48], abs=0.08)
    assert np.multiply(255, data.std) == pytest.approx([68.21, 65.43, 70.46], abs=0.05)


@pytest.mark.cifar100
def test_every_fifth_class_of_cifar100(cifar100, images_of_cifar100):
    whole = images_of_cifar100
    data = load_images(f"parquet:{cifar100}", classes_every=5, memory_limit_gb=0, train_size=2000)
    assert data.class_names == whole.class_names[::5]
    assert np.bincount(data.train.labels).tolist() == [100] * 20
    assert np.bincount(data.test.labels).tolist() == [100] * 20
    assert torch.equal(data.test.labels, whole.test.labels[whole.test.labels % 5 == 0] // 5)
