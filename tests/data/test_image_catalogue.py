"""Every name and path that is not one of images is refused with what to do."""

import pytest

from flowebm.data import available_images, load_dataset, load_images


def test_every_name_has_a_line():
    assert set(available_images()) == {"mnist", "fashion-mnist", "kmnist", "cifar-10"}
    assert all(available_images().values())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mnsit", {}, "did you mean mnist or kmnist?"),
        ("Fashion_Minst", {}, "did you mean fashion-mnist?"),
        ("cifar-100", {}, "did you mean cifar-10?"),
        ("penguins", {}, "There are no images 'penguins': give one of mnist, fashion-mnist"),
        ("mnist", {}, "name the folder"),
        ("mnist", {"folder": "absent"}, "There is no folder"),
        ("mnist", {"folder": "file"}, "is a file: name the folder"),
        ("mnist", {"part": "validation"}, "give one of train, test, all"),
        ("folder", {"folder": "folder"}, "was given with the path"),
        ("folder", {"download": True}, "download=True was given with the path"),
        ("file", {}, "Cannot tell what images"),
    ],
)
def test_what_cannot_be_loaded_is_refused(tmp_path, monkeypatch, refused, name, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    refused(words, load_images, name, **options)


def test_load_sends_a_set_of_images_to_load_images(refused):
    refused("read it by load_images", load_dataset, "Fashion_MNIST")
    refused("did you mean mnist", load_dataset, "mnsit")
