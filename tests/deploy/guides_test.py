"""deploy/guides: the commands of DGX2.md in a bare root, and CAPACITY.md against the planner."""

import re
import shutil
import subprocess

import bare_root
import guide
import harness
from bare_root import completed
from harness import ROOT
from install_test import check_output

GUIDES = ROOT / "deploy" / "guides"


def test_the_dgx_2_guide_s_commands_do_what_it_says(release, bare):
    steps = guide.steps((GUIDES / "DGX2.md").read_text())
    marked = [step for step in steps if step.where]
    assert len(marked) >= 8
    shutil.copy(release.tarball, bare.path / "root")
    bare.run("tar -xzf optserve-*.tar.gz -C /opt && ln -s /opt/optserve-*-linux-x86_64 /opt/optserve && "
             "ln -s /opt/optserve/bin/optserve /usr/local/bin/optserve")
    server = None
    for step in marked:
        if step.where == "node serves":
            server = subprocess.Popen(bare.inside("exec " + step.script), stdout=subprocess.PIPE, text=True)
            check_output(step, server.stdout.readline())
        elif step.where == "anywhere":
            check_output(step, bare_root.completed(bare.outside(step.script)))
        else:
            assert step.where == "node"
            check_output(step, bare.run(step.script))
    assert server.poll() is None


def test_what_needs_a_gpu_is_said_not_to_have_run():
    text = (GUIDES / "DGX2.md").read_text()
    for step in guide.steps(text):
        if "--device cuda" in step.script or "nvidia-smi" in step.script:
            assert not step.where and step.output is None
    assert "not yet measured" in text and "modelled" in text


def test_the_capacity_table_is_the_planner_s():
    table = completed(["python3", str(GUIDES / "capacity.py"), str(harness.BINARY)])
    assert len(table.splitlines()) == 2 + 9 * 5
    page = (GUIDES / "CAPACITY.md").read_text()
    assert table in page, "run deploy/guides/capacity.py again"
    assert "not measured" in page


def test_links_between_the_guides_lead_somewhere():
    for page in (ROOT / "deploy").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"
