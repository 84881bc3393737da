"""Small data sets in the layouts of Tiny-ImageNet and ImageNet."""

from PIL import Image

from picture_files import noise

# As in wnids.txt, which is in no order.
WNIDS = ("n02124075", "n01443537", "n03126707", "n02012849")
WORDS = """\
n00001740\tentity
n01443537\tgoldfish, Carassius auratus
n02012849\tcrane
n02124075\tEgyptian cat
n03126707\tcrane
"""
# The classes of the images val_0.JPEG, val_1.JPEG, ...
VAL = ("n03126707", "n01443537", "n02124075", "n02012849", "n01443537")
IMAGENET_WNIDS = ("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331")


def write_jpeg(path, image):
    """One JPEG file; a grey one where the image has no channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="JPEG", quality=95)


def write_tiny_imagenet(root, size=6):
    """The published layout: 4 classes of 6 images, one of them grey, and 5 images in val."""
    images = noise(4 * size, 64)
    for place, wnid in enumerate(WNIDS):
        boxes = ""
        for number, image in enumerate(images[size * place : size * (place + 1)]):
            name = f"{wnid}_{number}.JPEG"
            grey = (wnid, number) == ("n01443537", 3)
            write_jpeg(root / "train" / wnid / "images" / name, image[..., 0] if grey else image)
            boxes += f"{name}\t0\t10\t63\t58\n"
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    rows = ""
    for number, (wnid, image) in enumerate(zip(VAL, noise(5, 64, seed=1), strict=True)):
        write_jpeg(root / "val" / "images" / f"val_{number}.JPEG", image)
        rows += f"val_{number}.JPEG\t{wnid}\t0\t32\t44\t62\n"
    (root / "val" / "val_annotations.txt").write_text(rows)
    write_jpeg(root / "test" / "images" / "test_0.JPEG", images[0])
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (root / "words.txt").write_text(WORDS)
    return root


def write_imagenet(root):
    """6 classes of 4 images to train on and 2 to val, no two of one size."""
    images = iter(noise(36, 160))
    for place, wnid in enumerate(IMAGENET_WNIDS):
        for number in range(6):
            split, name = ("train", f"{wnid}_{number}") if number < 4 else ("val", f"val_{number}")
            image = next(images)[: 60 + 7 * place, : 150 - 11 * number]
            write_jpeg(root / split / wnid / f"{name}.JPEG", image)
    return root
