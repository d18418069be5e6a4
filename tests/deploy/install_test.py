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


def start(root, step):
    """Runs a step that serves, until it says that it does; its process."""
    server = subprocess.Popen(root.inside("exec " + step.script), stdout=subprocess.PIPE, text=True)
    check_output(step, server.stdout.readline())
    return server


def stop(root, server):
    bare_root.completed(root.inside("kill -TERM $(grep -lz ^serve$ /proc/[0-9]*/cmdline | cut -d/ -f3)"))
    assert server.wait(timeout=60) == 0


def test_the_tarball_serves_the_demo_model_on_a_bare_root(release, bare):
    steps = [step for step in STEPS if not step.where.startswith("deb")]
    assert [step.where for step in steps] == ["node"] * 3 + ["node serves", "anywhere", "node", "node"]
    shutil.copy(release.tarball, bare.path / "root")
    server = None
    for step in steps:
        if step.where == "node serves":
            server = start(bare, step)
        elif step.where == "anywhere":
            check_output(step, bare_root.completed(bare.outside(step.script)))
        else:
            if step == steps[-1]:
                stop(bare, server)
                assert "libmpi.so.40 => not found" in bare.run("ldd /opt/optserve/bin/optserve-rank")  # and nothing else
                assert bare.run("ldd /opt/optserve/bin/*").count("not found") == 1
            check_output(step, bare.run(step.script))
    assert not list((bare.path / "opt").iterdir())  # the last step has removed it


def test_the_debs_install_by_apt_on_a_bare_root(release, root_archive, tmp_path):
    steps = [step for step in STEPS if step.where.startswith("deb")]
    assert [step.where for step in steps] == ["deb", "deb", "deb serves"]
    with bare_root.BareRoot(root_archive, tmp_path / "root", network=True) as root:
        for deb in release.debs.values():
            shutil.copy(deb, root.path / "root")
        root.run("apt-get update -qq", timeout=200)
        printed = root.run(steps[0].script, timeout=300)
        assert printed.endswith(", O my God, my God,\n")
        assert "/etc/optserve/optserve.json" in root.run("cat /var/lib/dpkg/info/optserve.conffiles")
        assert (root.path / "usr/lib/systemd/system/optserve.service").exists()
        shown = root.run("optserve serve --config /etc/optserve/optserve.json --print-config")
        assert "/usr/share/optserve/demo-model" in shown
        assert not (root.path / "usr/bin/mpirun").exists()  # so far nothing needs an MPI

        root.run(steps[1].script, timeout=300)
        server = subprocess.Popen(root.inside("exec " + steps[2].script), stdout=subprocess.PIPE, text=True)
        line = server.stdout.readline()
        check_output(steps[2], line)
        url = line.split("http=")[1].split()[0]
        ask = f'optserve-cli complete "It is a truth" --max-tokens 8 --temperature 0 --address {url}'
        assert root.run(ask) == ", and the LORD hath not the LORD\n"
        programs = root.run("readlink /proc/[0-9]*/exe || true").split()
        assert programs.count("/usr/bin/optserve-rank") == 2
        stop(root, server)
        root.run("apt-get remove -y optserve")
        assert not (root.path / "usr/bin/optserve").exists() and not (root.path / "usr/bin/optserve-rank").exists()
        assert (root.path / "usr/bin/optserve-cli").exists()
