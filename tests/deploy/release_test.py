"""What is in the packages: versions, libraries, licences, SBOM."""

import re
import subprocess

import pytest

import harness
import packages
from harness import ROOT
from packages import PROGRAMS, VERSION

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
    assert release.debs.keys() == PROGRAMS.keys()
    for package, deb in release.debs.items():
        assert deb.name == f"{package}_{VERSION}_amd64.deb"
        assert packages.sbom(tree, package)["name"] == f"{package}-{VERSION}"
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
        from_outside = {name for name in re.findall(r"NEEDED\s+(\S+)", needed)
                        if not of_the_system.match(name) and not (tree / "lib/optserve" / name).exists()}
        # The cluster's own MPI is none of ours.
        assert from_outside == ({"libmpi.so.40"} if path.name == "optserve-rank" else set()), path.name


def test_each_deb_has_one_program_and_says_what_it_needs(release):
    for package, program in PROGRAMS.items():
        files = deb(release.debs[package], "--contents")
        assert re.findall(r" \./usr/bin/(\S+)\n", files) == [program]
        for name in ("copyright", "sbom.spdx.json", "licences/libabsl20220623"):
            assert f"./usr/share/doc/{package}/{name}\n" in files
    needed = {package: re.findall(r"[^, ][^,]*", deb(path, "--field", "Depends").strip())
              for package, path in release.debs.items()}
    assert f"optserve (= {VERSION})" in needed["optserve-mpi"] and "openmpi-bin" in needed["optserve-mpi"]
    for package in ("optserve", "optserve-cli"):  # on a laptop or one machine, no MPI
        assert needed[package] and not any("mpi" in name for name in needed[package])
    assert not any(name.startswith("optserve") for name in needed["optserve-cli"])
    assert "/etc/optserve/optserve.json" in deb(release.debs["optserve"], "--info", "conffiles")
    assert "conffiles" not in deb(release.debs["optserve-cli"], "--info")


def deb(path, *question):
    return subprocess.run(["dpkg-deb", question[0], path, *question[1:]], check=True, capture_output=True,
                          text=True).stdout


@pytest.mark.parametrize("package, compiled_in", [
    ("optserve", ["libboost1.81-dev", "nlohmann-json3-dev", "libcli11-dev"]),  # leave no trace but in the binary
    ("optserve-cli", ["libboost1.81-dev", "nlohmann-json3-dev", "libcli11-dev"]),
    ("optserve-mpi", ["libopenmpi-dev", "nlohmann-json3-dev"])])
def test_sbom_and_licences_name_the_same_packages(package, compiled_in, tree):
    by_name = {each["name"]: each for each in packages.sbom(tree, package)["packages"]}
    assert licences(tree, package) == by_name.keys() - {package}
    for name in compiled_in:
        assert by_name[name]["comment"] == "compiled in"
    assert by_name["libprotobuf32"]["comment"] == "loaded"
    for name in licences(tree, package):
        assert len((packages.documentation(tree, package) / "licences" / name).read_text()) > 200


def test_the_licence_of_every_bundled_library_is_there(tree):
    libraries = {path.name for path in (tree / "lib/optserve").iterdir() if not path.is_symlink()}
    found = subprocess.run(["dpkg-query", "--search", *(f"*/{name}" for name in libraries)], check=True,
                           capture_output=True, text=True).stdout
    owners = {path.rsplit("/")[-1]: owner for owner, path in re.findall(r"^([^:\n]+):.* (\S+)$", found, re.MULTILINE)}
    assert owners.keys() == libraries
    for library, owner in owners.items():
        assert owner in licences(tree, "optserve"), f"{library} is shipped, and {owner}'s licence is not"


def licences(tree, package):
    return {path.name for path in (packages.documentation(tree, package) / "licences").iterdir()}


@pytest.mark.parametrize("package", PROGRAMS)
def test_the_sbom_is_spdx_2_3(package, tree):
    document = packages.sbom(tree, package)
    assert document["spdxVersion"] == "SPDX-2.3" and document["dataLicense"] == "CC0-1.0"
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in ids)
    related = {relation["relatedSpdxElement"] for relation in document["relationships"]}
    assert related == set(ids)
    listed = {each["name"]: each["versionInfo"] for each in document["packages"][1:]}
    shown = subprocess.run(["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *listed], check=True,
                           capture_output=True, text=True).stdout
    assert listed == dict(line.split() for line in shown.splitlines())


def test_no_path_of_the_build_machine_is_in_the_packages(tree):
    programs = [tree / "bin" / name for name in PROGRAMS.values()]
    for path in [*programs, *(tree / "share").rglob("*")]:
        if path.is_file():
            assert str(ROOT).encode() not in path.read_bytes(), path


def test_bash_completes_what_is_installed(tree):
    for program in ("optserve", "optserve-cli"):
        script = (tree / "share/bash-completion/completions" / program).read_text()
        printed = subprocess.run([tree / "bin" / program, "completion", "bash"], capture_output=True, text=True)
        assert script == printed.stdout != ""


def test_cmake_installs_a_tree_that_runs(tmp_path):
    prefix = tmp_path / "prefix"
    for component in ("runtime", "cli", "ranks", "bundled"):
        subprocess.run(["cmake", "--install", packages.BUILD, "--prefix", prefix, "--component", component], check=True,
                       capture_output=True)
    for program in ("optserve", "optserve-cli"):
        ran = subprocess.run([prefix / "bin" / program, "--version"], capture_output=True, text=True)
        assert ran.stdout == f"{program} {VERSION}\n"
    assert (prefix / "bin/optserve-rank").exists()
    assert {path.name for path in prefix.iterdir()} == {"bin", "lib", "share"}
