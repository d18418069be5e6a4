"""Every file of deploy/ is exercised by a test: here it is said by which."""

import subprocess

from harness import ROOT

TESTS = {
    "deploy/INSTALL.md": "install_test.py",
    "deploy/README.md": "coverage_test.py",
    "deploy/RUNBOOK.md": "monitoring_test.py",
    "deploy/cmake/": "release_test.py",
    "deploy/container/": "container_test.py",
    "deploy/demo-model/": "install_test.py",
    "deploy/guides/SECURITY.md": "coverage_test.py",
    "deploy/guides/": "guides_test.py",
    "deploy/kubernetes/": "kubernetes_test.py",
    "deploy/monitoring/": "monitoring_test.py",
    "deploy/proxies/": "proxies_test.py",
    "deploy/release/": "release_test.py",
    "deploy/slurm/": "slurm_test.py",
    "deploy/systemd/": "systemd_test.py",
    "deploy/quickstart.sh": "quickstart_test.py",
    # Run by tests/run.sh, which begins with the first and builds with what the others lay out; read here.
    "deploy/install-deps.sh": "coverage_test.py",
    "deploy/install-cuda12.sh": "coverage_test.py",
    "deploy/install-cuda13.sh": "coverage_test.py",
}


def files():
    return subprocess.run(["git", "ls-files", "deploy"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def test_every_file_of_deploy_has_a_test():
    for path in files():
        matching = [prefix for prefix in TESTS if path == prefix or (prefix.endswith("/") and path.startswith(prefix))]
        assert matching, f"{path} is exercised by no test"
        assert (ROOT / "tests" / "deploy" / TESTS[max(matching, key=len)]).exists()


def test_every_script_is_clean_shell():
    scripts = [path for path in files() if path.endswith((".sh", ".sbatch"))]
    assert len(scripts) >= 4
    for path in scripts:
        subprocess.run(["shellcheck", "--severity=warning", path], cwd=ROOT, check=True)


def test_every_install_script_is_run_by_the_tests():
    run = (ROOT / "tests" / "run.sh").read_text()
    for script in files():
        if script.startswith("deploy/install-"):
            assert f"bash {script}" in run, f"no stage runs {script}"


def test_the_readme_names_every_folder_and_file():
    readme = (ROOT / "deploy" / "README.md").read_text()
    for name in {path.split("/")[1] + ("/" if path.count("/") > 1 else "") for path in files()} - {"README.md"}:
        assert f"`{name}`" in readme, f"deploy/README.md does not name {name}"


def test_what_the_security_notes_point_to_exists():
    notes = (ROOT / "deploy" / "guides" / "SECURITY.md").read_text()
    for path in ("tests/e2e/access_test.py", "tests/fuzz", "tests/faults"):
        assert f"`{path}`" in notes and (ROOT / path).exists()
    assert list((ROOT / "engine" / "adr").glob("0005*"))
