"""What cpack makes of this build."""

import json
import re
import subprocess
import tarfile

from harness import BINARY, ROOT

BUILD = BINARY.resolve().parent
# What each package is called, and the program in it.
PROGRAMS = {"optserve": "optserve", "optserve-cli": "optserve-cli", "optserve-mpi": "optserve-rank"}
VERSION = re.search(r"^project\(optserve VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE).group(1)


class Release:
    """Packs once; `tarball` is a file, `debs` are those by package."""

    def __init__(self):
        for old in (*BUILD.glob("optserve-*.tar.gz"), *BUILD.glob("optserve*.deb")):
            old.unlink()
        subprocess.run(["cpack"], cwd=BUILD, check=True, stdout=subprocess.DEVNULL, timeout=300)
        [self.tarball] = BUILD.glob("optserve-*.tar.gz")
        self.debs = {path.name.split("_")[0]: path for path in BUILD.glob("optserve*.deb")}

    def unpack(self, directory):
        with tarfile.open(self.tarball) as archive:
            archive.extractall(directory)
        [tree] = directory.iterdir()
        return tree


def documentation(tree, package="optserve"):
    return tree / "share" / "doc" / package


def sbom(tree, package="optserve"):
    return json.loads((documentation(tree, package) / "sbom.spdx.json").read_text())
