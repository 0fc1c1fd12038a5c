"""The table of flags: complete, and without what a version does not know."""

from packaging.version import Version

from kbuild.kubernetes.flags import all_flags, flags_of
from kbuild.pki.uses import USES


def test_a_flag_has_either_a_part_or_a_value_and_a_use_that_there_is() -> None:
    for flag in all_flags():
        assert bool(flag.part) is (flag.value == "")
        assert flag.use in USES
        assert flag.why
        assert not flag.why.endswith(".")


def test_the_first_flag_of_a_component_is_about_a_certificate_of_its_own() -> None:
    first = {flag.component: flag for flag in reversed(all_flags())}
    assert {name: USES[flag.use].component for name, flag in first.items()} == {n: n for n in first}
    assert first.keys() == {use.component for use in USES.values()}


def test_a_flag_is_there_once_in_each_version() -> None:
    for minor in range(13, 34):
        names = [(flag.component, flag.name) for flag in flags_of(Version(f"1.{minor}.0"))]
        assert len(names) == len(set(names)) > 40
