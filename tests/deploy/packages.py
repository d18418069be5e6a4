"""What cpack makes of this build."""

import json
import re
import subprocess
import tarfile

from harness import BINARY, ROOT

BUILD = BINARY.resolve().parent
VERSION = re.search(r"^project\(optserve VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE).group(1)


class Release:
    """Packs once; `tarball` and `deb` are the files, `tree` is the unpacked tarball."""

    def __init__(self):
        for old in (*BUILD.glob("optserve-*.tar.gz"), *BUILD.glob("optserve_*.deb")):
            old.unlink()
        subprocess.run(["cpack"], cwd=BUILD, check=True, stdout=subprocess.DEVNULL, timeout=300)
        [self.tarball] = BUILD.glob("optserve-*.tar.gz")
        [self.deb] = BUILD.glob("optserve_*.deb")

    def unpack(self, directory):
        with tarfile.open(self.tarball) as archive:
            archive.extractall(directory)
        [tree] = directory.iterdir()
        return tree


def documentation(tree):
    return tree / "share" / "doc" / "optserve"


def sbom(tree):
    return json.loads((documentation(tree) / "sbom.spdx.json").read_text())
