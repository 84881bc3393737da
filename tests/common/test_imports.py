import pytest

from svdistill.common.errors import ArgumentError
from svdistill.common.imports import import_attribute, require_package


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_require_package_says_how_to_install_it(module):
    with pytest.raises(ArgumentError) as caught:
        require_package(module, extra="zoo")
    assert str(caught.value) == (
        "no_such_package: expected an installed package, got none; run pip install 'svdistill[zoo]'"
    )


def test_require_package_says_why_an_installed_one_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import another_that_is_absent")
    (tmp_path / "raising_package.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArgumentError, match=r"^broken_package: .*another_that_is_absent.*pip"):
        require_package("broken_package", extra="zoo")
    with pytest.raises(ArgumentError, match=r"^raising_package: .*RuntimeError: operator"):
        require_package("raising_package", extra="zoo")


def test_require_package_gives_the_module():
    assert require_package("json.decoder", extra="zoo").JSONDecoder is not None


def test_import_attribute_searches_the_current_directory_first(tmp_path, monkeypatch):
    (tmp_path / "module_of_the_user.py").write_text("network = 3")
    monkeypatch.chdir(tmp_path)
    assert import_attribute("module_of_the_user:network", "network") == 3
    with pytest.raises(ArgumentError, match=r"^network: .*did you mean 'network'\?"):
        import_attribute("module_of_the_user:netwrk", "network")
    with pytest.raises(ArgumentError, match=r"^loss: .*ModuleNotFoundError"):
        import_attribute("module_that_is_absent:loss", "loss")
