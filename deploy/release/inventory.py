#!/usr/bin/env python3
"""Writes what a program of a build contains of other people's work: an SBOM and everybody's licence.

    inventory.py --build BUILD_DIR --program optserve --package optserve --version X.Y.Z --out DIR

DIR/sbom.spdx.json   SPDX 2.3: each Debian package whose headers were compiled into it or whose libraries it loads
DIR/licences/NAME    that package's copyright file, word for word

Nothing is listed by hand: headers are those that Ninja recorded for the program's objects, libraries those that the
loader finds. A file that no package owns, or a package without a copyright file, is an error.
"""

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

# Of the system, not shipped: the C library with the kernel's headers, and its loader.
OF_THE_SYSTEM = {"libc6", "libc6-dev", "linux-libc-dev"}


def lines(*command, cwd=None):
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout.splitlines()


def compiled_headers(build, program):
    """The headers outside the project that went into the program's objects."""
    objects = {line for line in lines("ninja", "-C", build, "-t", "inputs", program) if line.endswith(".o")}
    headers, of_program = set(), False
    for line in lines("ninja", "-C", build, "-t", "deps"):
        if line.startswith("    "):
            if of_program and line.strip().startswith("/usr/"):
                headers.add(os.path.realpath(line.strip()))
        else:
            of_program = line.split(":")[0] in objects
    if not headers:
        sys.exit(f"inventory: Ninja has recorded no headers; build {program} first")
    return headers


def loaded_libraries(binary):
    found = [re.search(r"=> (/\S+)", line) for line in lines("ldd", binary)]
    return {os.path.realpath(match.group(1)) for match in found if match}


def owners(files):
    """From each package that owns one of `files` to those of them."""
    packages = {}
    files = sorted(files)
    for begin in range(0, len(files), 500):
        answer = subprocess.run(["dpkg-query", "--search", *files[begin:begin + 500]], capture_output=True, text=True)
        for line in answer.stdout.splitlines():
            owner, path = line.split(": ", 1)
            if not owner.startswith("diversion by"):
                packages.setdefault(owner.split(",")[0].split(":")[0], set()).add(path)
    return packages


def find_packages(build, program):
    """From package to what it is here: "compiled in" or "loaded"."""
    uses = {}
    headers, libraries = compiled_headers(build, program), loaded_libraries(build / program)
    for files, use in ((headers, "compiled in"), (libraries, "loaded")):
        owned = owners(files)
        # Before /usr was one tree, Debian knew libraries by their other name.
        missing = files - set().union(*owned.values())
        other_names = {path.removeprefix("/usr") for path in missing}
        more = owners(other_names) if other_names else {}
        missing = other_names - set().union(set(), *more.values())
        if missing:
            sys.exit(f"inventory: no Debian package owns {', '.join(sorted(missing))}")
        for package in owned.keys() | more.keys():
            uses[package] = use
    return {package: use for package, use in uses.items() if package not in OF_THE_SYSTEM}


def facts(package):
    form = "${Version}\t${source:Package}\t${Homepage}"
    version, source, homepage = lines("dpkg-query", "--show", f"--showformat={form}\\n", package)[0].split("\t")
    return version, source, homepage


def licence_names(copyright_text):
    """The short names in a machine-readable copyright file, as Debian spells them."""
    return sorted({name.strip() for name in re.findall(r"^License:[ \t]*(\S.*)$", copyright_text, re.MULTILINE)})


def spdx_package(package, use, copyright_text):
    version, source, homepage = facts(package)
    names = licence_names(copyright_text)
    return {
        "SPDXID": f"SPDXRef-{re.sub('[^A-Za-z0-9.-]', '-', package)}",
        "name": package,
        "versionInfo": version,
        "supplier": "Organization: Debian",
        "downloadLocation": "NOASSERTION",
        "homepage": homepage or "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "licenseComments": f"licences/{package}" + (f"; Debian's names: {', '.join(names)}" if names else ""),
        "copyrightText": "NOASSERTION",
        "comment": use,
        "externalRefs": [{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                          "referenceLocator": f"pkg:deb/debian/{package}@{version}?distro=debian-12&upstream={source}"}],
    }


def document(name, version, packages):
    ids = [package["SPDXID"] for package in packages]
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", datetime.datetime.now(datetime.timezone.utc).timestamp()))
    created = datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()[:32]
    ours = {"SPDXID": f"SPDXRef-{name}", "name": name, "versionInfo": version, "downloadLocation": "NOASSERTION",
            "filesAnalyzed": False, "licenseConcluded": "NOASSERTION", "licenseDeclared": "NOASSERTION",
            "licenseComments": "copyright", "copyrightText": "NOASSERTION"}
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}-{version}", "documentNamespace": f"urn:{name}:{version}:{digest}",
        "creationInfo": {"created": created, "creators": ["Tool: optserve deploy/release/inventory.py"]},
        "packages": [ours, *packages],
        "relationships": [{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES",
                           "relatedSpdxElement": ours["SPDXID"]}]
        + [{"spdxElementId": ours["SPDXID"], "relationshipType": "DEPENDS_ON", "relatedSpdxElement": package}
           for package in ids],
    }


def main():
    parser = argparse.ArgumentParser(description="Writes the SBOM and the licences of a program of optserve.")
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--program", required=True, help="as the build calls it")
    parser.add_argument("--package", required=True, help="what it is shipped as")
    parser.add_argument("--version", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()

    licences = options.out / "licences"
    licences.mkdir(parents=True, exist_ok=True)
    packages = []
    for package, use in sorted(find_packages(options.build, options.program).items()):
        text = pathlib.Path(f"/usr/share/doc/{package}/copyright").read_text(errors="replace")
        (licences / package).write_text(text)
        packages.append(spdx_package(package, use, text))
    sbom = document(options.package, options.version, packages)
    (options.out / "sbom.spdx.json").write_text(json.dumps(sbom, indent=1) + "\n")


if __name__ == "__main__":
    main()
