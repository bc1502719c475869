from pathlib import Path

import pytest

from darla import doctor
from darla.doctor import Check


def test_a_frame_is_rendered_on_this_machine():
    check = doctor.check_gl()
    assert check.state == "ok", check


def test_a_machine_without_opengl_gets_the_packages_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    check = doctor.check_gl()
    assert check.state == "broken"
    assert "apt-get install libegl1 libopengl0 libgl1-mesa-dri" in check.remedy
    assert "\n" not in check.found


def test_packages_are_compared_with_what_was_tested(tmp_path: Path):
    assert doctor.check_packages(tmp_path / "none").state == "ok"
    pins = tmp_path / "constraints.txt"
    pins.write_text("# tested\nMuJoCo==3.0.0  # old\n")
    check = doctor.check_packages(pins)
    assert check.state == "warning"
    assert "mujoco" in check.found and "(tested: 3.0.0)" in check.found


def test_the_projects_own_constraints_are_installed_here():
    check = doctor.check_packages()
    assert check.state == "ok" and "as tested" in check.found, check


def test_a_missing_package_is_broken_and_named(monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    check = doctor.check_packages()
    assert check.state == "broken"
    assert "no-such-package" in check.found and "no-such-package" in check.remedy


def test_a_mujoco_that_breaks_dm_control_is_broken(monkeypatch):
    version = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "4.0.0" if name == "mujoco" else version(name)
    )
    assert doctor.check_packages().state == "broken"


def test_torch_names_its_devices():
    check = doctor.check_torch()
    assert check.state == "ok" and "cpu" in check.found


def test_deepmind_lab_is_looked_for_and_may_be_missing(monkeypatch):
    for found, words in ((None, "not installed; only"), (object(), "installed")):
        monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name, found=found: found)
        check = doctor.check_deepmind_lab()
        assert check.state == "ok" and check.found.startswith(words)


def test_no_compiler_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.check_compiler().state == "warning"


def test_one_core_and_a_full_disk_are_warnings(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: {0})
    assert doctor.check_cores().state == "warning"
    monkeypatch.setattr(doctor, "FREE_GIB", 1e9)
    check = doctor.check_disk(tmp_path)
    assert check.state == "warning" and "runs=FOLDER" in check.remedy


@pytest.mark.timeout(180)
def test_ray_starts_and_stops():
    check = doctor.check_ray()
    assert check.state == "ok", check


def test_ray_that_does_not_start_is_told_in_its_last_line(monkeypatch):
    monkeypatch.setattr(doctor, "_RAY", "raise SystemExit('first line\\nno shared memory')")
    check = doctor.check_ray()
    assert check == Check("ray", "broken", "does not start: no shared memory", check.remedy)
    assert "--shm-size" in check.remedy
