"""What a person reads of a device's reports."""

import pytest

from ipls.cli.opening import Reporter
from ipls.client.events import ContactIdentityDiffers


def test_a_compared_key_that_differs_is_told_with_the_commands_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(verbose=False) as report:
        report(ContactIdentityDiffers("+15555550101"))
    assert capsys.readouterr().err == (
        "WARNING: another device says that you compared another key of +15555550101 than the directory proves; compare"
        " again: ipls client contacts verify; or let go of it: ipls client contacts forget +15555550101\n"
    )
