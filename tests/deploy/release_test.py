"""What is in the packages: versions, libraries, licences, SBOM."""

import re
import subprocess

import pytest

import harness
import packages
from harness import ROOT
from packages import VERSION

OLDEST = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13)}  # of Ubuntu 22.04


@pytest.fixture(scope="module")
def tree(release, tmp_path_factory):
    return release.unpack(tmp_path_factory.mktemp("release"))


def elf_files(tree):
    return [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink()
            and path.open("rb").read(4) == b"\x7fELF"]


def test_the_version_is_said_in_one_place(release, tree):
    assert harness.run("--version").stdout == f"optserve {VERSION}\n"
    assert release.tarball.name.startswith(f"optserve-{VERSION}-linux-")
    assert release.deb.name.startswith(f"optserve_{VERSION}_")
    assert packages.sbom(tree)["name"] == f"optserve-{VERSION}"
    changelog = (packages.documentation(tree) / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE).group(1) == VERSION


def test_no_shipped_file_needs_newer_symbols_than_ubuntu_22_04_has(tree):
    files = elf_files(tree)
    assert len(files) > 20
    for path in files:
        symbols = subprocess.run(["objdump", "-T", path], check=True, capture_output=True, text=True).stdout
        for name, version in re.findall(r"\b(GLIBC|GLIBCXX|CXXABI)_([0-9.]+)", symbols):
            assert tuple(map(int, version.split("."))) <= OLDEST[name], f"{path.name} needs {name}_{version}"


def test_every_library_is_in_the_tree_or_the_system_s_own(tree):
    of_the_system = re.compile(r"^(linux-vdso|ld-linux|lib(c|m|stdc\+\+|gcc_s)\.so)")
    for path in elf_files(tree):
        needed = subprocess.run(["objdump", "-p", path], check=True, capture_output=True, text=True).stdout
        for name in re.findall(r"NEEDED\s+(\S+)", needed):
            assert of_the_system.match(name) or (tree / "lib/optserve" / name).exists(), f"{path.name} needs {name}"


def test_sbom_and_licences_name_the_same_packages_and_all_bundled_libraries(tree):
    by_name = {package["name"]: package for package in packages.sbom(tree)["packages"]}
    licences = {path.name for path in (packages.documentation(tree) / "licences").iterdir()}
    assert licences == by_name.keys() - {"optserve"}
    for name in ("libboost1.81-dev", "nlohmann-json3-dev", "libcli11-dev"):  # leave no trace but in the binary
        assert by_name[name]["comment"] == "compiled in"
    for library in (tree / "lib/optserve").iterdir():
        if library.is_symlink():
            continue
        owner = subprocess.run(["dpkg-query", "--search", f"*/{library.name}"], check=True, capture_output=True,
                               text=True).stdout.split(":")[0]
        assert owner in licences, f"{library.name} is shipped, and {owner}'s licence is not"
    for name in licences:
        assert len((packages.documentation(tree) / "licences" / name).read_text()) > 200


def test_the_sbom_is_spdx_2_3(tree):
    document = packages.sbom(tree)
    assert document["spdxVersion"] == "SPDX-2.3" and document["dataLicense"] == "CC0-1.0"
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in ids)
    related = {relation["relatedSpdxElement"] for relation in document["relationships"]}
    assert related == set(ids)
    for package in document["packages"][1:]:
        installed = subprocess.run(["dpkg-query", "--show", "--showformat=${Version}", package["name"]], check=True,
                                   capture_output=True, text=True).stdout
        assert package["versionInfo"] == installed


def test_no_path_of_the_build_machine_is_in_the_packages(tree):
    for path in (tree / "share").rglob("*"):
        if path.is_file():
            assert str(ROOT).encode() not in path.read_bytes(), path
    assert str(ROOT).encode() not in (tree / "bin/optserve").read_bytes()


def test_cmake_installs_a_tree_that_runs(tmp_path):
    prefix = tmp_path / "prefix"
    for component in ("runtime", "bundled"):
        subprocess.run(["cmake", "--install", packages.BUILD, "--prefix", prefix, "--component", component], check=True,
                       capture_output=True)
    ran = subprocess.run([prefix / "bin/optserve", "--version"], capture_output=True, text=True)
    assert ran.stdout == f"optserve {VERSION}\n"
    assert {path.name for path in prefix.iterdir()} == {"bin", "lib", "share"}
