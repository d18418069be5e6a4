"""deploy/INSTALL.md, word for word, in a bare Debian 12 root."""

import shutil
import subprocess

import bare_root
import guide
from harness import ROOT

GUIDE = (ROOT / "deploy" / "INSTALL.md").read_text()
STEPS = guide.steps(GUIDE)


def check_output(step, printed):
    if step.output is not None:
        assert guide.pattern(printed) == guide.pattern(step.output), f"{step.script}\nprinted\n{printed}"


def test_the_tarball_serves_the_demo_model_on_a_bare_root(release, bare):
    steps = [step for step in STEPS if step.where != "deb"]
    assert [step.where for step in steps] == ["node"] * 3 + ["node serves", "anywhere", "node"]
    shutil.copy(release.tarball, bare.path / "root")
    server = None
    for step in steps:
        if step.where == "node serves":
            server = subprocess.Popen(bare.inside("exec " + step.script), stdout=subprocess.PIPE, text=True)
            check_output(step, server.stdout.readline())
        elif step.where == "anywhere":
            check_output(step, bare_root.completed(bare.outside(step.script)))
            bare_root.completed(bare.inside("kill -TERM $(grep -lz ^serve$ /proc/[0-9]*/cmdline | cut -d/ -f3)"))
            assert server.wait(timeout=60) == 0
        else:
            check_output(step, bare.run(step.script))
    assert not list((bare.path / "opt").iterdir())  # the last step has removed it


def test_the_deb_installs_by_apt_on_a_bare_root(release, root_archive, tmp_path):
    [step] = [step for step in STEPS if step.where == "deb"]
    with bare_root.BareRoot(root_archive, tmp_path / "root", network=True) as root:
        shutil.copy(release.deb, root.path / "root")
        root.run("apt-get update -qq", timeout=200)
        printed = root.run(step.script, timeout=300)
        assert printed.endswith(", O my God, my God,\n")
        assert "/etc/optserve/optserve.json" in root.run("cat /var/lib/dpkg/info/optserve.conffiles")
        assert (root.path / "usr/lib/systemd/system/optserve.service").exists()
        shown = root.run("optserve serve --config /etc/optserve/optserve.json --print-config")
        assert "/usr/share/optserve/demo-model" in shown
        root.run("apt-get remove -y optserve")
        assert not (root.path / "usr/bin/optserve").exists()
